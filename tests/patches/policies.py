"""Every cache policy with settings for short texts, and a small model to try it in."""

import pytest
import torch

import patches
from patches.cache.policies import POLICIES, KvCache
from patches.cache.policies.policy import Place
from tests.patches.tiny import SINKS, VOCAB, windowed_model

WINDOW, HEADS, DIM = 16, 2, 12
TIGHT = {
    "full": "full",
    "int8": "int8:block=4,group=5,residual=3,sinks=2",
    "int4": "int4:block=4,group=5,residual=3,sinks=2",
    "heavy-hitter": "heavy-hitter:budget=20,recent=4,sinks=3",
    "merge": "merge:budget=40,recent=4,sinks=3",
    "low-rank": "low-rank:rank=5,residual=8,sinks=3",
}
"""Settings under which a text of some dozen tokens is compressed."""
ROOMY = {
    "full": "full",
    "int8": "int8:residual=300",
    "int4": "int4:residual=300",
    "heavy-hitter": "heavy-hitter:budget=400",
    "merge": "merge:budget=400",
    "low-rank": f"low-rank:rank={DIM},residual=8,sinks=3",
}
"""Settings under which a text of some hundred tokens is not, in a layer of either kind."""
NAMES = pytest.mark.parametrize("name", POLICIES)
PLACES = (Place(0, WINDOW, SINKS, 1), Place(1, None, 0, 1))
LENGTHS = (1, 9, 23)
"""Tokens of the rows of a padded batch."""


def chosen(name: str, specs: dict[str, str]) -> KvCache:
    """The policy in every layer that it serves."""
    kinds = POLICIES[name].kinds
    return KvCache.from_specs(*(specs[name] if kind in kinds else "full" for kind in ("global", "window")))


def build(**options):
    """A window layer and a global one that do not write one token for ever."""
    window = {"size": WINDOW, "sinks": SINKS, "positions": "absolute", "global_layers": [1]}
    return windowed_model(
        "llama",
        **{"num_hidden_layers": 2, "attention_window": window, "tie_word_embeddings": False} | options,
    ).double()


def cache_of(model, name, specs=TIGHT):
    return patches.WindowedCache(model.config, kv_cache=chosen(name, specs))


def draw(rows, tokens, seed=1):
    return torch.randint(3, VOCAB, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def padded():
    """Rows of ``LENGTHS`` tokens, padded on the left, and their mask."""
    length = max(LENGTHS)
    tokens = draw(len(LENGTHS), length)
    begins = torch.tensor([length - own for own in LENGTHS])
    mask = (torch.arange(length) >= begins[:, None]).long()
    return tokens * mask, mask


def feed(model, cache, tokens, *cuts, **options):
    """Logits of all tokens, fed in passes that end at the cuts."""
    passes = tokens.tensor_split(cuts, dim=1)
    with torch.no_grad():
        return torch.cat([model(part, past_key_values=cache, **options).logits for part in passes], dim=1)


def write(model, tokens, cache=None, new=25, **options):
    fixed = {"do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(tokens)}
    written = model.generate(tokens, past_key_values=cache, max_new_tokens=new, **fixed | options)
    return written[:, tokens.shape[1] :]

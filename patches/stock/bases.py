"""``patches.fit_bases``: the bases of ``low-rank`` from texts, once for a checkpoint."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from patches.cache.bases import FILE, SIDES, entry, principal_directions, second_moment
from patches.cache.growing import GrowingLayer
from patches.policy import PolicyError
from patches.stock.cache import make_cache

CONTEXTS, LENGTH = 32, 2048
"""Of a text, where nothing else is asked: how many contexts, of how many tokens."""
SINKS = 4
"""First tokens of a text that are not counted: they are kept as they are, and unlike all others."""


class MomentLayer(GrowingLayer):
    """A layer that adds up the second moments of what it stores, ``[K, D, D]`` for keys and for values."""

    def __init__(self, moments: dict[str, Tensor]):
        """Make an empty layer.

        Args:
            moments: Where to add, by side.
        """
        super().__init__()
        self.moments = moments

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add up the tokens of a first pass and hand them out; arguments as in ``GrowingLayer``."""
        for side, states in zip(SIDES, (key_states, value_states), strict=True):
            moment = second_moment(states[:, :, SINKS:]).sum(dim=0)
            self.moments[side] = moment + self.moments[side] if side in self.moments else moment
        return super().update(key_states, value_states, *args, **kwargs)


@torch.no_grad()
def fit_bases(
    model: PreTrainedModel, input_ids: Tensor, folder: str | Path | None = None, rank: int | None = None
) -> dict[str, Tensor]:
    """Find the directions in which the keys and the values of a model have the most energy.

    Args:
        model: A causal language model: windowed, with grouped heads, or one of transformers.
        input_ids: Texts without padding, ``[N, T]``, read one at a time. Rotated keys depend on where they
            stand, so the texts should be as long as those that the bases will serve.
        folder: The checkpoint into which they are written, as ``kv_bases.safetensors``; None: nowhere.
        rank: Directions to keep per KV head; None: all, so that any ``rank`` can be read.

    Returns:
        For every layer that sees everything, orthonormal columns of keys and of values, ``[K, D, rank]``
        float32, by their names in the file.

    Raises:
        PolicyError: no layer sees everything, the texts are too short, or ``rank`` is more than ``head_dim``.
    """
    if input_ids.dim() != 2 or not len(input_ids) or input_ids.shape[1] <= SINKS:
        raise PolicyError(f"input_ids of shape {list(input_ids.shape)} must be [N, T], T above {SINKS}")
    moments: dict[int, dict[str, Tensor]] = {}
    for text in input_ids.split(1):
        cache = make_cache(model)
        for index, layer in enumerate(cache.layers):
            if isinstance(layer, GrowingLayer):
                cache.layers[index] = MomentLayer(moments.setdefault(index, {}))
        model.base_model(input_ids=text.to(model.device), past_key_values=cache, use_cache=True)
    if not moments:
        raise PolicyError("every layer of the model has a window; low-rank is for layers that see everything")
    bases = {}
    for index, by_side in moments.items():
        for side, moment in by_side.items():
            dim = moment.shape[-1]
            if rank is not None and not 1 <= rank <= dim:
                raise PolicyError(f"rank={rank} must be from 1 to the model's head_dim of {dim}")
            kept = principal_directions(moment, rank or dim)
            bases[entry(index, side)] = kept.float().cpu().contiguous()
    if folder is not None:
        read = {"texts": str(len(input_ids)), "tokens": str(input_ids.numel())}
        partial = Path(folder) / f"{FILE}.partial"
        partial.write_bytes(save(bases, read))
        partial.replace(Path(folder) / FILE)
    return bases


def fit_to_text(folder: str, text: Path, length: int | None, contexts: int) -> tuple[int, int]:
    """Fit a checkpoint's bases to a file of text and write them into its folder.

    Args:
        folder: The checkpoint.
        text: UTF-8.
        length: Tokens of a context, BOS included; None: 2048, or the model's positions if they are fewer.
        contexts: How many to read, at most, from the beginning of the text.

    Returns:
        Contexts and tokens that were read.

    Raises:
        PolicyError: there is no such checkpoint or text, or the text is shorter than one context.
    """
    if not (Path(folder) / "config.json").is_file():
        raise PolicyError(f"{folder!r} is not a checkpoint folder, into which bases could be written")
    try:
        content = text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"text {str(text)!r} is not readable: {error}") from None
    try:
        config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise PolicyError(f"checkpoint {folder!r} does not load: {error}") from None
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or LENGTH
    length = min(LENGTH, positions) if length is None else length
    if not SINKS < length <= positions:
        raise PolicyError(
            f"--length {length} must be above {SINKS} and at most the model's {positions} positions"
        )
    bos: list[int] = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    body = length - len(bos)
    ids = tokenizer.encode(content, add_special_tokens=False)
    rows = min(contexts, len(ids) // body)
    if not rows:
        raise PolicyError(f"text {str(text)!r} has {len(ids)} tokens, less than one context of {length}")
    inputs = torch.tensor([bos + ids[row * body : (row + 1) * body] for row in range(rows)])
    fit_bases(AutoModelForCausalLM.from_pretrained(folder).eval(), inputs, folder)
    return rows, inputs.numel()

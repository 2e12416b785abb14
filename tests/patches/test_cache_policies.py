"""What every cache policy promises, whichever it is: its bytes, rows of their own, no leftovers."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

import patches
from patches.cache.policies import POLICIES, KvCache
from patches.cache.policies.policy import Place, Tokens
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


def test_every_policy_is_tested_here():
    assert TIGHT.keys() == ROOMY.keys() == POLICIES.keys()


@NAMES
@pytest.mark.parametrize("rows", [1, 3])
def test_bytes_are_the_formula_at_every_length(name, rows):
    model = build().float()
    cache, tokens, chosen_here = cache_of(model, name), draw(rows, 90), chosen(name, TIGHT)
    seen = 0
    for count in (1, 1, 3, 30, 1, 2, *[1] * 20, 17):
        feed(model, cache, tokens[:, seen : seen + count])
        seen += count
        expected = [
            rows * chosen_here.of(place.window).nbytes(Tokens(seen, HEADS, DIM, 4, place)) for place in PLACES
        ]
        assert cache.nbytes == sum(expected), f"{seen} tokens"
        held = cache.nbytes_by_part().items()
        assert sum(bytes for part, bytes in held if part.startswith("global")) == expected[1]


@NAMES
@pytest.mark.parametrize("tokens", [20, 70])
def test_bytes_do_not_depend_on_how_tokens_come(name, tokens):
    model = build()
    whole, single = cache_of(model, name), cache_of(model, name)
    feed(model, whole, draw(1, tokens))
    feed(model, single, draw(1, tokens), *range(1, tokens))
    assert whole.nbytes_by_part() == single.nbytes_by_part()


@NAMES
def test_with_room_for_everything_it_is_the_full_cache(name):
    model, (tokens, mask) = build(), padded()
    for options in ({}, {"num_beams": 3}, {"prefill_chunk_size": 7}):
        options["attention_mask"] = mask
        wanted = write(model, tokens, **options)
        assert torch.equal(write(model, tokens, cache_of(model, name, ROOMY), **options), wanted), options
    text = draw(2, 90)
    wanted = feed(model, patches.WindowedCache(model.config), text, 30, *range(50, 90))
    got = feed(model, cache_of(model, name, ROOMY), text, 30, *range(50, 90))
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


@NAMES
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"prefill_chunk_size": 7}], ids=str)
def test_padded_rows_write_what_they_write_alone(name, options):
    model, (tokens, mask) = build(), padded()
    together = write(model, tokens, cache_of(model, name), new=64, attention_mask=mask, **options)
    for row, length in enumerate(LENGTHS):
        if options.get("prefill_chunk_size"):
            # Chunks end where the columns of the batch say.
            ends = [end - tokens.shape[1] + length for end in range(7, tokens.shape[1], 7)]
            alone = cut_prefill(model, name, tokens[row : row + 1, -length:], [e for e in ends if e > 0])
        else:
            alone = write(model, tokens[row : row + 1, -length:], cache_of(model, name), new=64, **options)
        assert together[row].tolist() == alone[0].tolist(), f"row {row}"


def cut_prefill(model, name, tokens, ends):
    cache = cache_of(model, name)
    logits = feed(model, cache, tokens, *ends)
    written = [logits[:, -1:].argmax(-1)]
    while len(written) < 64:
        written.append(feed(model, cache, written[-1]).argmax(-1))
    return torch.cat(written, dim=1)


@NAMES
def test_two_calls_share_nothing(name):
    model = build(kv_cache=chosen(name, TIGHT).to_config())
    first, other = draw(2, 30), draw(2, 41, seed=2)
    wanted = write(model, first)
    write(model, other)
    assert torch.equal(write(model, first), wanted)
    cache = cache_of(model, name)
    assert torch.equal(write(model, first, cache), wanted)
    cache.reset()
    assert cache.get_seq_length() == 0 and torch.equal(write(model, first, cache), wanted)


@NAMES
def test_sampling_is_that_of_the_same_seed(name):
    model, tokens = build(kv_cache=chosen(name, TIGHT).to_config()), draw(2, 30)
    runs = []
    for _ in range(2):
        torch.manual_seed(7)
        runs.append(write(model, tokens, do_sample=True))
    assert torch.equal(*runs) and len(set(runs[0][0].tolist())) > 3


@NAMES
def test_a_conversation_goes_on_with_its_cache(name):
    model = build()
    cache = cache_of(model, name)
    question, answer = draw(2, 30), draw(2, 7, seed=2)
    said = write(model, question, cache, new=20)
    told = torch.cat([question, said, answer], dim=1)
    further = write(model, told, cache, new=20)
    twin = cache_of(model, name)
    feed(model, twin, told[:, :49], *range(30, 49))
    logits = feed(model, twin, told[:, 49:])[:, -1:]
    for token in further.T:
        assert logits.argmax(-1)[:, 0].tolist() == token.tolist()
        logits = feed(model, twin, token[:, None])


@NAMES
def test_rows_are_selected_repeated_and_reordered(name):
    model, (tokens, mask) = build(), padded()
    more, order = draw(4, 30, seed=2), [2, 2, 0, 1]
    cache = cache_of(model, name)
    feed(model, cache, tokens, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0))
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([4, 0, 1, 2]))
    cache.reorder_cache(torch.tensor([0, 0, 2, 3]))
    for at in range(30):
        now = torch.cat([mask[order], torch.ones(4, at + 1, dtype=torch.long)], dim=1)
        place = now.sum(1, keepdim=True) - 1
        got = feed(model, cache, more[:, at : at + 1], attention_mask=now, position_ids=place)
    for row, source in enumerate(order):
        twin, length = cache_of(model, name), LENGTHS[source]
        feed(model, twin, tokens[source : source + 1, -length:])
        wanted = feed(model, twin, more[row : row + 1], *range(1, 30))[:, -1:]
        torch.testing.assert_close(got[row : row + 1], wanted, rtol=1e-8, atol=1e-8)


@NAMES
def test_a_short_text_can_be_cropped_where_there_is_room(name):
    model, text = build(), draw(2, 40)
    cache, twin = cache_of(model, name, ROOMY), cache_of(model, name, ROOMY)
    feed(model, cache, text[:, :14])
    feed(model, twin, text[:, :9])
    cache.crop(-5)
    assert cache.get_seq_length() == 9
    rest = (text[:, 9:], *range(2, 31))
    torch.testing.assert_close(feed(model, cache, *rest), feed(model, twin, *rest), rtol=1e-9, atol=1e-9)


@NAMES
def test_a_crop_that_cannot_be_is_refused_and_changes_nothing(name):
    model, text = build(), draw(2, 80)
    cache, twin = cache_of(model, name), cache_of(model, name)
    for each in (cache, twin):
        feed(model, each, text[:, :60])
    with pytest.raises(patches.PolicyError, match="cannot go back to 5 of 60 tokens"):
        cache.crop(5)
    rest = (text[:, 60:], *range(1, 20))
    assert torch.equal(feed(model, cache, *rest), feed(model, twin, *rest))


@NAMES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype_and_an_inference_mode_that_is_left(name, dtype):
    model, text = build().to(dtype), draw(2, 60)
    cache = cache_of(model, name)
    with torch.inference_mode():
        model(text[:, :20], past_key_values=cache)
        model(text[:, 20:22], past_key_values=cache)
    logits = feed(model, cache, text[:, 22:], *range(1, 20))
    assert logits.dtype == dtype and logits.isfinite().all()


@NAMES
@pytest.mark.parametrize("heads,kv_heads,dim", [(4, 4, 16), (4, 1, 80), (2, 1, 96), (2, 2, 256)])
def test_heads_of_every_kind(name, heads, kv_heads, dim):
    shape = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": dim}
    model, text = build(**shape), draw(1, 60)
    cache = cache_of(model, name)
    feed(model, cache, text, 30, *range(31, 60))
    policy = chosen(name, TIGHT)
    sizes = [policy.of(place.window).nbytes(Tokens(60, kv_heads, dim, 8, place)) for place in PLACES]
    assert cache.nbytes == sum(sizes)


@NAMES
def test_a_checkpoint_says_how_it_caches(name, tmp_path):
    model, text = build(), draw(2, 30)
    wanted = write(model, text, cache_of(model, name))
    model.config.kv_cache = chosen(name, TIGHT).to_config()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(write(loaded, text), wanted)
    answer = loaded.generate(text, max_new_tokens=5, return_dict_in_generate=True, pad_token_id=0)
    assert answer.past_key_values.nbytes == cache_bytes(model, name, text, answer.sequences)


def cache_bytes(model, name, text, sequences):
    cache = cache_of(model, name)
    feed(model, cache, sequences[:, :-1], *range(text.shape[1], sequences.shape[1] - 1))
    return cache.nbytes


FULL = {"global": {"policy": "full"}}
OURS = ("model_type", "kv_cache", "attention_window", "layer_types")
"""What a config of ours says beside that of transformers."""


@NAMES
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
def test_a_stock_model_writes_what_the_same_model_of_ours_writes(name, options):
    if "global" not in POLICIES[name].kinds:
        pytest.skip("it serves window layers alone, which a stock model does not have")
    ours = build(attention_window=None, kv_cache=chosen(name, TIGHT).to_config() or FULL)
    entry = {key: value for key, value in ours.config.to_dict().items() if key not in OURS}
    stock = AutoModelForCausalLM.from_config(LlamaConfig(**entry)).eval().double()
    stock.load_state_dict(ours.state_dict())
    tokens, mask = padded()
    wanted = write(ours, tokens, attention_mask=mask, **options)
    cache = patches.make_cache(stock, TIGHT[name])
    assert torch.equal(write(stock, tokens, cache, attention_mask=mask, **options), wanted)

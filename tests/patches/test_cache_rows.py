"""With every cache policy rows are their own: padded, selected, cropped, and from one call to the next."""

import pytest
import torch

import patches
from tests.patches.policies import (
    LENGTHS,
    NAMES,
    ROOMY,
    TIGHT,
    build,
    cache_of,
    chosen,
    draw,
    feed,
    padded,
    write,
)


@NAMES
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"prefill_chunk_size": 7}], ids=str)
def test_padded_rows_write_what_they_write_alone(name, options):
    model, (tokens, mask) = build(), padded()
    together = write(model, tokens, cache_of(model, name), new=40, attention_mask=mask, **options)
    for row, length in enumerate(LENGTHS):
        if options.get("prefill_chunk_size"):
            # Chunks end where the columns of the batch say.
            ends = [end - tokens.shape[1] + length for end in range(7, tokens.shape[1], 7)]
            alone = cut_prefill(model, name, tokens[row : row + 1, -length:], [e for e in ends if e > 0])
        else:
            alone = write(model, tokens[row : row + 1, -length:], cache_of(model, name), new=40, **options)
        assert together[row].tolist() == alone[0].tolist(), f"row {row}"


def cut_prefill(model, name, tokens, ends):
    cache = cache_of(model, name)
    logits = feed(model, cache, tokens, *ends)
    written = [logits[:, -1:].argmax(-1)]
    while len(written) < 40:
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

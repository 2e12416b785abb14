"""The blocks of the ``sdpa`` backend share masks: every place a block can stand, at full size."""

import pytest
import torch

from patches.attention import eager, sdpa
from patches.attention.scoring import Scoring
from patches.frame import Frame, Step


@pytest.mark.parametrize("heads,kv_heads", [(1, 1), (4, 1), (8, 1)])
@pytest.mark.parametrize("window", [3, 256, 700])
@pytest.mark.parametrize("tokens", [512, 800])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_blocks_before_and_after_the_window_is_full(heads, kv_heads, window, tokens, softcap):
    sdpa._kept_mask.cache_clear()
    generator = torch.Generator().manual_seed(tokens + window + heads)
    query, key, value = (
        torch.randn(1, count, tokens, 8, dtype=torch.float64, generator=generator)
        for count in (heads, kv_heads, kv_heads)
    )
    frame, scoring = Frame(Step(0), tokens, window, 5), Scoring(8**-0.5, softcap=softcap)
    got = sdpa.attend(query, key, value, frame, scoring)[0]
    torch.testing.assert_close(got, eager.attend(query, key, value, frame, scoring)[0])


def test_full_blocks_share_one_mask():
    sdpa._kept_mask.cache_clear()
    query = torch.randn(1, 1, 256 * 9, 4)
    sdpa.attend(query, query, query, Frame(Step(0), 256 * 9, 300, 2), Scoring(0.5))
    assert sdpa._kept_mask.cache_info().currsize == 2

"""Free moves on every family: they prove its layout, its rotary pairs and what it says may not be moved."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from convert import ConvertError, Request, convert
from convert.heads import AttentionHeads
from tests.convert.free_moves import permute_heads, turn_keys, turn_values
from tests.convert.sources import Source
from tests.convert.tiny import CASES

TOKENS = torch.arange(24).reshape(2, 12) % 64

cases = pytest.mark.parametrize("case", CASES)


class Moved:
    """The model of a source in float64, and its logits after a move in every layer."""

    def __init__(self, source: Source) -> None:
        self.source = source
        # The faster kernels for experts know no float64.
        options = {"dtype": torch.float64, "experts_implementation": "eager"}
        self.model = AutoModelForCausalLM.from_pretrained(source.folder, **options).eval()
        self.state = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.before = self.logits()

    def logits(self) -> Tensor:
        with torch.no_grad():
            return self.model(TOKENS, use_cache=False).logits

    def change(self, move: Callable[[AttentionHeads, int], AttentionHeads]) -> float:
        """Largest change of a logit by a move, as a part of the largest logit."""
        state = dict(self.state)
        for layer in range(self.source.shape.layers):
            state |= self.source.join(layer, move(self.source.split(layer, self.state), layer))
        self.model.load_state_dict(state)
        return float((self.logits() - self.before).abs().max() / self.before.abs().max())


@cases
def test_free_moves_leave_the_logits(source: Source) -> None:
    family, config, moved = source.family, source.config, Moved(source)
    noise = torch.Generator().manual_seed(3)
    order = list(range(source.shape.kv_heads))[::-1]

    def turn(heads: AttentionHeads, layer: int) -> AttentionHeads:
        return turn_keys(heads, family.rotary(config, layer), noise)

    changes = {
        "permute": moved.change(lambda heads, layer: permute_heads(heads, order)),
        "values": moved.change(lambda heads, layer: turn_values(heads, noise)),
        "keys": moved.change(turn),
    }
    free = {
        "permute": len(order) == 1 or not family.ordered(config),
        "values": family.fixed(config) is None,
        "keys": family.fixed(config) is None and not family.key_norm(config),
    }
    for move, change in changes.items():
        # Norms and rotary tables are float32 even in a float64 model.
        assert change < 1e-5 if free[move] else change > 1e-3, (move, change)


@pytest.mark.parametrize(
    ("family", "changes", "options", "message"),
    [
        ("bloom", {}, {"group": "search"}, "number of its own"),
        ("falcon", {"alibi": True}, {"group": "search"}, "number of its own"),
        ("mpt", {"attn_config": {"clip_qkv": 0.3}}, {"merge": "subspace"}, "clip_qkv=0.3 clips every number"),
        ("olmoe", {"clip_qkv": 0.3}, {"merge": "procrustes"}, "clip_qkv=0.3 clips every number"),
    ],
)
def test_what_is_not_free_is_refused(family, changes, options, message, make_checkpoint, tmp_path) -> None:
    source = make_checkpoint(family, **changes)
    with pytest.raises(ConvertError, match=message):
        convert(Request(str(source), tmp_path / "out", kv_heads=2, **options))


@cases
def test_other_rotary_pairs_are_not_free(source: Source) -> None:
    family, config = source.family, source.config
    rotaries = [family.rotary(config, layer) for layer in range(source.shape.layers)]
    if family.fixed(config) or family.key_norm(config) or not any(rotary.dims for rotary in rotaries):
        pytest.skip("keys cannot be turned here, or no positions are rotary")
    moved, noise = Moved(source), torch.Generator().manual_seed(3)
    wrong = [type(rotary)(rotary.dims, not rotary.interleaved) for rotary in rotaries]
    none = [type(rotary)(0) for rotary in rotaries]
    assert moved.change(lambda heads, layer: turn_keys(heads, wrong[layer], noise)) > 1e-3
    assert moved.change(lambda heads, layer: turn_keys(heads, none[layer], noise)) > 1e-3

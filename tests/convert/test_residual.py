"""What a record says of a layer's modules: where attention is, and what of it reaches the residual stream."""

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel

from convert.families import FAMILIES
from tests.convert.sources import Source
from tests.convert.tiny import CASES

TOKENS = torch.arange(24).reshape(2, 12) % 64


# A norm of the whole stream ends the layers of that OPT, so its sum cannot be seen from outside.
@pytest.mark.parametrize("case", sorted(CASES.keys() - {"opt with norms after"}))
def test_a_layer_without_its_mlp_adds_what_the_record_says(source: Source) -> None:
    family = source.family
    model = AutoModel.from_pretrained(source.folder, dtype=torch.float32).eval()
    layer = model.get_submodule(family.layers)[1]
    added = layer.get_submodule(family.residual or f"{family.attention}.{family.layout.output}")
    seen: dict[str, Tensor] = {}

    def keep(module: nn.Module, args: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> None:
        seen["added" if module is added else "after"] = output[0] if isinstance(output, tuple) else output
        seen.setdefault("before", args[0])

    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if not name.startswith(family.attention) and "norm" not in name and "ln_" not in name:
                parameter.zero_()
        layer.register_forward_pre_hook(lambda module, args: seen.update(before=args[0]))
        layer.register_forward_hook(keep)
        added.register_forward_hook(keep)
        model(TOKENS)
    scale = family.residual_scale(source.config)
    torch.testing.assert_close(seen["after"], seen["before"] + scale * seen["added"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "config", "dims"),
    [
        ("gpt_neox", {}, 24),
        ("gpt_neox", {"rotary_pct": 0.5}, 48),
        ("gpt_neox", {"rotary_pct": 0.5, "rope_parameters": {"partial_rotary_factor": 1.0}}, 96),
        ("phi", {"partial_rotary_factor": 0.4}, 25),
        ("phi3", {"rope_scaling": {"type": "longrope"}, "partial_rotary_factor": 0.75}, 72),
        ("gptj", {"rotary_dim": 32}, 32),
        ("falcon", {"alibi": True}, 0),
        ("bloom", {}, 0),
    ],
)
def test_rotary_dimensions_from_old_and_new_configs(family: str, config: dict, dims: int) -> None:
    assert FAMILIES[family].rotary(config, 0).dims == dims

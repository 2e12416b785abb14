"""Windows by a family's own config keys compute the windowed source; those it cannot say are refused."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import patches
from convert import ConvertError, Request, convert
from convert.families import FAMILIES
from tests.convert.test_tiers import TOKENS, WINDOW, masked_logits

WINDOWED = {
    "mixtral": ("none",),
    "starcoder2": ("none",),
    "phi3": ("none",),
    "qwen3_moe": ("none",),
    "ministral": ("none",),
    "gemma2": ("none", "1"),
    "gpt_oss": ("none", "1"),
    "smollm3": ("none", "1", "0,2"),
    "gemma3_text": ("1",),
    "olmo3": ("1",),
    "exaone4": ("1",),
    "cohere2": ("1",),
}
REFUSED = {
    "no window of any kind": ("opt", {"window": 8}, "opt has no native window"),
    "sinks without a class": ("bloom", {"window": 8, "sinks": 2}, "there are for .*, llama, ministral"),
    "no keys for KV heads": ("gpt2", {"window": 8, "kv_heads": 2}, "no windowed class for gpt2"),
    "farther than it saw": ("gemma2", {"window": 32}, "window=32 for layer 0: the source slides over 16"),
    "farther with sinks": ("gpt_oss", {"window": 17, "sinks": 2}, "the source slides over 16 tokens"),
    "global where it slides": (
        "gemma2",
        {"window": 8, "sinks": 2, "global_layers": "0"},
        "full attention for layer 0: the source slides over 16 tokens there, it never saw farther",
    ),
}
OWN_CLASS = {
    "no native window": ("gemma", "none", "gemma has no native window"),
    "one for all layers": ("phi3", "1", "one window for every layer"),
    "other positions": ("gemma3_text", "none", "must be global: 1"),
    "broken in transformers": ("qwen2_moe", "none", "does not give qwen2_moe's window"),
}
UNREADABLE = {
    "a norm per head": ("stablelm", {"qk_layernorm": True}, "qk_layernorm=True"),
    "looks both ways": ("gemma", {"use_bidirectional_attention": True}, "both ways"),
    "cross-attention": ("gpt2", {"add_cross_attention": True}, "cross-attention"),
    "norms of mpt": ("mpt", {"attn_config": {"qk_ln": True}}, "attn_config.qk_ln=True"),
}


def test_every_native_window_is_tried() -> None:
    core = {"mistral", "qwen2", "qwen3"}
    native = {name for name, family in FAMILIES.items() if family.window and not family.window.broken}
    assert native == core | WINDOWED.keys()


# transformers gives Gemma 2, whose scores are capped, no sdpa, nor gpt-oss, which has sink logits.
@pytest.mark.parametrize(
    ("family", "spec", "implementation"),
    [
        (name, spec, implementation)
        for name, specs in WINDOWED.items()
        for spec in specs
        for implementation in (("eager",) if name in ("gemma2", "gpt_oss") else ("eager", "sdpa"))
    ],
)
def test_native_window_is_the_masked_source(
    family: str, spec: str, implementation: str, make_checkpoint, tmp_path: Path
) -> None:
    source, out = make_checkpoint(family), tmp_path / "out"
    result = convert(Request(str(source), out, window=WINDOW, global_layers=spec))
    model, info = AutoModelForCausalLM.from_pretrained(
        out, attn_implementation=implementation, output_loading_info=True
    )
    assert (result.tier, model.config.model_type) == ("native-window", family)
    assert not any(info.values()), info
    with torch.no_grad():
        logits = model.eval()(TOKENS, use_cache=False).logits
    kept = () if spec == "none" else tuple(map(int, spec.split(",")))
    torch.testing.assert_close(logits, masked_logits(source, kept), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", REFUSED)
def test_windows_that_no_form_expresses_are_refused(case: str, make_checkpoint, tmp_path: Path) -> None:
    family, options, message = REFUSED[case]
    source = make_checkpoint(family)
    with pytest.raises(ConvertError, match=message):
        convert(Request(str(source), tmp_path / "out", **options))


@pytest.mark.parametrize("case", OWN_CLASS)
def test_windows_that_no_native_form_expresses_take_our_class(case: str, make_checkpoint, tmp_path) -> None:
    family, spec, message = OWN_CLASS[case]
    source, out = make_checkpoint(family), tmp_path / "out"
    result = convert(Request(str(source), out, window=WINDOW, global_layers=spec))
    assert (result.tier, result.model_type) == ("windowed", f"windowed_{family}")
    assert re.search(message, result.reason)
    with torch.no_grad():
        logits = patches.load(out)[0](TOKENS).logits
    kept = () if spec == "none" else tuple(map(int, spec.split(",")))
    torch.testing.assert_close(logits, masked_logits(source, kept), rtol=1e-4, atol=1e-5)


def test_a_pattern_written_as_text_is_read_from_layer_types(make_checkpoint, edit_config, tmp_path) -> None:
    source = make_checkpoint("exaone4")
    edit_config(source, sliding_window_pattern="LLLG")
    assert convert(Request(str(source), tmp_path / "out", kv_heads=2)).tier == "native-gqa"
    edit_config(source, layer_types=None)
    with pytest.raises(ConvertError, match="sliding_window_pattern='LLLG' is not a number of layers"):
        convert(Request(str(source), tmp_path / "other", kv_heads=2))


@pytest.mark.parametrize("case", UNREADABLE)
def test_checkpoints_that_cannot_be_converted_say_why(
    case: str, make_checkpoint, edit_config, tmp_path: Path
) -> None:
    family, changes, message = UNREADABLE[case]
    source = make_checkpoint(family)
    edit_config(source, **changes)
    with pytest.raises(ConvertError, match=message):
        convert(Request(str(source), tmp_path / "out", kv_heads=1))

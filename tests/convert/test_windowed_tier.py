"""Windowed results compute exactly the masked source, with Headroom and where it is not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import patches
from convert import Request, convert
from convert.families import FAMILIES
from tests.convert.test_tiers import TOKENS, WINDOW, masked_logits
from tests.convert.tiny import MIXED

LOAD_REMOTE = """
import sys, torch
from transformers import AutoModelForCausalLM
# Each brings its own copy of the code, and all are there before the first one runs.
models = {
    folder: AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    for folder in (*sys.argv[1:], "other version")
}
del models["other version"]
for folder, model in models.items():
    with torch.no_grad():
        torch.save(model(torch.load("tokens.pt"), use_cache=False).logits, folder + ".pt")
assert "patches" not in sys.modules
"""


CHANGES = {"ministral": {"layer_types": MIXED["layer_types"]}, "gemma2": {"attn_logit_softcapping": 2.0}}


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.windowed])
def test_windowed_tier_is_the_masked_source(family: str, make_checkpoint, tmp_path: Path) -> None:
    source, out = make_checkpoint(family, **CHANGES.get(family, {})), tmp_path / "out"
    result = convert(Request(str(source), out, window=WINDOW, sinks=2, global_layers="1"))
    model = patches.load(out)[0]
    with torch.no_grad():
        logits = model(TOKENS).logits
    assert (result.tier, model.config.model_type) == ("windowed", f"windowed_{family}")
    assert model.config.window_policy.global_layers == (1,)
    torch.testing.assert_close(logits, masked_logits(source, (1,), sinks=2), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [
        ("llama", "gpt_neox"),
        pytest.param(
            ("nemotron", "mistral", "qwen2", "qwen3", "phi", "gemma3_text", "mixtral", "gpt_oss", "gemma2"),
            marks=pytest.mark.thorough,
        ),
    ],
    ids=["some", "others"],
)
def test_windowed_tier_loads_where_headroom_is_not(names, make_checkpoint, tmp_path: Path) -> None:
    sources = {name: make_checkpoint(name, **CHANGES.get(name, {})) for name in names}
    for family, source in sources.items():
        convert(Request(str(source), tmp_path / family, window=WINDOW, sinks=2, global_layers="1"))
    other = tmp_path / "other version"
    shutil.copytree(tmp_path / names[0], other)
    with (other / "headroom_attention_backends.py").open("a") as code:
        code.write("\n\ndef attend(*_):\n    raise RuntimeError('not this copy')\n")
    torch.save(TOKENS, tmp_path / "tokens.pt")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", LOAD_REMOTE, *sources], cwd=tmp_path, env=environment, check=True)
    for family, source in sources.items():
        reference = masked_logits(source, (1,), sinks=2)
        torch.testing.assert_close(torch.load(tmp_path / f"{family}.pt"), reference, rtol=1e-5, atol=1e-5)

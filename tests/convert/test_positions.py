"""``--positions cache``: what it writes, and the checkpoints that cannot have it."""

import json
from pathlib import Path

import pytest
import torch

import patches
from convert import ConvertError, Request, convert
from convert.families import FAMILIES
from tests.convert.test_tiers import TOKENS, WINDOW, masked_logits
from tests.convert.test_windowed_tier import CHANGES

OWN_POSITIONS = {"cohere2", "exaone4", "gemma3_text", "olmo3"}
NEIGHBOURS = {"cohere", "ernie4_5", "glm", "glm4", "helium"}
NONE = {"smollm3": "layer 1 of this smollm3", "gpt2": "layer 0", "opt": "layer 0", "bloom": "layer 0"}


def request(source: Path, out: Path, **options: object) -> Request:
    return Request(str(source), out, **{"window": WINDOW, "sinks": 2, "positions": "cache"} | options)


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.windowed])
def test_both_rooms_allow_the_same_families(family: str, make_checkpoint, tmp_path: Path) -> None:
    source, out = make_checkpoint(family, **CHANGES.get(family, {})), tmp_path / "out"
    kept = "1" if family == "ministral" else "none"
    if family in OWN_POSITIONS | NEIGHBOURS | NONE.keys():
        with pytest.raises(ConvertError, match=r"positions=cache: .*; use absolute"):
            convert(request(source, out))
        return
    convert(request(source, out, global_layers=kept))
    assert json.loads((out / "config.json").read_text())["attention_window"]["positions"] == "cache"
    model = patches.load(out)[0]
    with torch.no_grad():
        logits = model(TOKENS).logits
    plain = masked_logits(source, () if kept == "none" else (1,), sinks=2)
    torch.testing.assert_close(logits[:, : WINDOW + 2], plain[:, : WINDOW + 2], rtol=1e-4, atol=1e-5)
    assert (logits - plain)[:, WINDOW + 2 :].abs().max() > 1e-4


@pytest.mark.parametrize("family", NONE)
def test_there_must_be_rotary_positions(family: str, make_checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=f"{NONE[family]}.* has no rotary positions to count"):
        convert(request(make_checkpoint(family), tmp_path / "out"))


@pytest.mark.parametrize("key", ["rope_type", "type"])
@pytest.mark.parametrize("kind", ["dynamic", "longrope", "proportional"])
def test_frequencies_must_not_change(kind: str, key: str, make_checkpoint, edit_config, tmp_path) -> None:
    source = make_checkpoint("llama")
    edit_config(source, rope_scaling={key: kind, "factor": 2.0})
    with pytest.raises(ConvertError, match=f"rotary scaling '{kind}' changes its frequencies"):
        convert(request(source, tmp_path / "out"))


def test_the_card_says_so(make_checkpoint, tmp_path: Path) -> None:
    convert(request(make_checkpoint("llama"), tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "2 sinks, their distances counted inside the cache" in card

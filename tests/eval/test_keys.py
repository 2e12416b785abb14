"""What decides whether something is measured again: settings, versions, the machine, and digests of files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval import run as run_module
from eval.checkpoint import find_checkpoint
from eval.results import Outcome
from eval.run import evaluate
from eval.strict import parse_strict
from eval.suite import Suite

SUITE = parse_strict(
    Suite,
    {
        "perplexity": {"length": 64, "contexts": 4},
        "agreement": {"length": 64, "contexts": 2},
        "reach": {},
        "consistency": {"length": 64, "decode_tokens": 4, "samples": 2},
        "footprint": {"lengths": [40, 64]},
        "speed": {"length": 32, "decode_tokens": 3, "repeats": 2},
    },
)


def test_every_task_setting_is_part_of_the_key(
    make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, data = make_checkpoint(), tmp_path / "data"
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    data.mkdir()
    row = {"goal": "dresser", "sol1": "this", "sol2": "that", "label": 0}
    for name in ("piqa.jsonl", "piqa.train.jsonl"):
        (data / name).write_text(json.dumps(row) + "\n")
    keys: list[str] = []

    def stored(_store: Any, _name: str, _measure: str, key: str) -> Outcome:
        keys.append(key)
        return Outcome(metrics=[])

    monkeypatch.setattr(run_module.Store, "get", stored)
    base = {"names": ["piqa"], "data_dir": str(data)}
    changes = [{}, {"num_fewshot": 1}, {"limit": 1}, {"chat_template": True}, {"bos": "always"}]
    for change in changes:
        evaluate([("a", folder)], parse_strict(Suite, {"tasks": base | change}), tmp_path / "out")
    with (data / "piqa.jsonl").open("a") as file:
        file.write(json.dumps(row | {"label": 1}) + "\n")
    evaluate([("a", folder)], parse_strict(Suite, {"tasks": base}), tmp_path / "out")
    assert len(set(keys)) == len(keys) == len(changes) + 1
    shutil.copytree(data, tmp_path / "moved")
    moved = base | {"data_dir": str(tmp_path / "moved")}
    evaluate([("a", folder)], parse_strict(Suite, {"tasks": moved}), tmp_path / "out")
    assert keys[-1] == keys[-2], "the same documents in another folder"


def test_versions_are_part_of_every_key_and_the_machine_of_those_of_speed(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[tuple[str, str]] = []

    def stored(_store: Any, _name: str, measure: str, key: str) -> Outcome:
        keys.append((measure, key))
        return Outcome(metrics=[])

    monkeypatch.setattr(run_module.Store, "get", stored)
    real = run_module.environment

    def changed(**changes: Any) -> set[str]:
        """The measures that are measured again on another machine or with other versions."""
        seen = len(keys)
        monkeypatch.setattr(run_module, "environment", lambda *given: real(*given) | changes)
        evaluate([("a", dense)], SUITE, tmp_path / "out")
        return {measure for measure, key in keys[seen:] if (measure, key) not in keys[:seen]}

    everything = changed()
    assert everything == set(SUITE.sections()) - {"agreement"}
    assert changed() == set()
    assert changed(torch="9.9") == changed(transformers="9.9") == everything
    assert changed(cpu="another") == changed(device="another") == changed(threads=77) == {"speed"}


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("generation_config.json", "digest"),
        ("chat_template.jinja", "tokenizer_digest"),
        ("additional_chat_templates/tool_use.jinja", "tokenizer_digest"),
        ("spiece.model", "tokenizer_digest"),
    ],
)
def test_every_file_that_counts_is_digested(
    name: str, digest: str, make_checkpoint: Callable[..., Path]
) -> None:
    folder = make_checkpoint()
    before = find_checkpoint("a", folder).record
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text('{"repetition_penalty": 1.3}')
    after = find_checkpoint("a", folder).record
    changed = [
        each for each in ("digest", "tokenizer_digest") if getattr(before, each) != getattr(after, each)
    ]
    assert changed == [digest]

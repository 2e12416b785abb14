"""Models that are broken on purpose are caught by measures of the quick suite, and intact ones are not."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import patches.cache.policies.full
import patches.generation
from convert import Request, convert
from eval.checkpoint import Loaded, find_checkpoint, load
from eval.compare import rows_of
from eval.measures import MEASURES
from eval.measures.base import Ask
from eval.report.wording import judge
from eval.results import Outcome, Row
from eval.sections import NeedleSection
from eval.suite import load_suite, narrow
from eval.text import TextSource, read_text
from patches.cache.window import WindowLayer
from patches.policy import WindowPolicy

TINY = Path(__file__).parents[2] / "recipes" / "tiny"
WINDOW, SINKS, LENGTH = 64, 24, 256
QUICK = narrow(load_suite("quick"), lengths=[LENGTH], limit=6)


@pytest.fixture(scope="module")
def text() -> TextSource:
    return read_text(TINY / "heldout.txt")


@pytest.fixture(scope="module")
def source() -> Loaded:
    return read("source", TINY / "checkpoint")


@pytest.fixture(scope="module")
def make_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def make(**request: Any) -> Path:
        folder = tmp_path_factory.mktemp("converted") / "windowed"
        source = str(TINY / "checkpoint")
        convert(Request(source=source, destination=folder, window=WINDOW, sinks=SINKS, **request))
        return folder

    return make


@pytest.fixture(scope="module")
def folder(make_folder: Callable[..., Path]) -> Path:
    """A window in every layer, and sinks enough for a whole needle."""
    return make_folder()


def read(name: str, folder: Path, break_it: Callable[[], None] = lambda: None) -> Loaded:
    """The checkpoint in memory; ``break_it`` runs once its config was read and before its model is built."""
    found = find_checkpoint(name, folder)
    break_it()
    return load(found, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def measure(text: TextSource, source: Loaded) -> Callable[..., Outcome]:
    """Run a measure of the quick suite on a checkpoint, with the dense source as baseline."""

    def run(name: str, subject: Loaded, section: Any = None) -> Outcome:
        asked = section or QUICK.sections()[name]
        return MEASURES[name].run(Ask(subject, source, asked, text, 0, None, lambda _amount: None))

    return run


@pytest.fixture(scope="module")
def intact(folder: Path, measure: Callable[..., Outcome]) -> Callable[[str], Outcome]:
    """What the quick suite says of the intact checkpoint, measured once."""
    loaded, known = read("intact", folder), {}

    def outcome(name: str) -> Outcome:
        if name not in known:
            known[name] = measure(name, loaded)
        return known[name]

    return outcome


def compared(measure: str, intact: Outcome, broken: Outcome) -> dict[str, Row]:
    rows = rows_of({measure: {"intact": intact, "broken": broken}}, ["intact", "broken"])
    return {row.key: row for row in rows}


def is_worse(row: Row) -> bool:
    return judge(row, row.cells["broken"]) == "worse"


def test_nothing_is_wrong_with_the_intact_one(intact: Callable[[str], Outcome]) -> None:
    assert intact("reach").metrics[0].value == 100.0 and intact("reach").warnings == []
    values = {metric.key: metric.value for metric in intact("consistency").metrics}
    assert values["cache_kl"] == pytest.approx(0.0, abs=1e-6)
    assert values["cache_top1"] == values["same_again"] == 100.0
    assert intact("consistency").warnings == []


@pytest.fixture
def wrong_policy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Every model that is loaded from here on obeys another policy than its config says, cache and mask."""
    read_config = WindowPolicy.from_config

    def change(**changes: int) -> None:
        monkeypatch.setattr(
            WindowPolicy,
            "from_config",
            classmethod(lambda _cls, entry, layers: replace(read_config(entry, layers), **changes)),
        )

    yield change


def test_dropped_sinks_are_caught(
    folder: Path,
    measure: Callable[..., Outcome],
    intact: Callable[[str], Outcome],
    wrong_policy: Callable[..., None],
) -> None:
    section = NeedleSection(lengths=[LENGTH], depths=[0.0], samples=8, controls=1)
    whole = measure("needle", read("intact", folder), section)
    broken = read("broken", folder, lambda: wrong_policy(sinks=0))
    reached = compared("reach", intact("reach"), measure("reach", broken))
    assert is_worse(reached["reach"]) and reached["reach"].cells["broken"].value == 0.0
    rows = compared("needle", whole, measure("needle", broken, section))
    assert is_worse(rows["needle_sinks"])


@pytest.mark.parametrize("size", [WINDOW - 1, WINDOW + 1])
def test_a_window_off_by_one_is_caught(
    size: int,
    folder: Path,
    measure: Callable[..., Outcome],
    intact: Callable[[str], Outcome],
    wrong_policy: Callable[..., None],
) -> None:
    outcome = measure("reach", read("broken", folder, lambda: wrong_policy(size=size)))
    assert is_worse(compared("reach", intact("reach"), outcome)["reach"])
    assert (
        f"sees {size} tokens back, config.json says {WINDOW} tokens and {SINKS} sinks" in outcome.warnings[0]
    )


def test_a_ring_off_by_one_is_caught(
    folder: Path,
    measure: Callable[..., Outcome],
    intact: Callable[[str], Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The mask is right and the cache is one token too short."""
    monkeypatch.setattr(
        patches.cache.policies.full, "WindowLayer", lambda window, *rest: WindowLayer(window - 1, *rest)
    )
    outcome = measure("consistency", read("broken", folder))
    rows = compared("consistency", intact("consistency"), outcome)
    assert is_worse(rows["cache_kl"])
    assert any("its cache loses something, or is wrong" in warning for warning in outcome.warnings)


def test_permuted_heads_are_caught(
    folder: Path, measure: Callable[..., Outcome], intact: Callable[[str], Outcome]
) -> None:
    """Queries moved by one head; keys, values and the output projection as they were."""
    broken = read("broken", folder)
    for layer in broken.model.model.layers:
        weight = layer.self_attn.q_proj.weight
        with torch.no_grad():
            weight.copy_(weight.view(8, -1, weight.shape[1]).roll(1, dims=0).reshape(weight.shape))
    for name, key in (("agreement", "kl"), ("agreement", "top1"), ("perplexity", "perplexity")):
        assert is_worse(compared(name, intact(name), measure(name, broken))[key]), key
    assert measure("reach", broken).metrics[0].value == 100.0


def test_a_cache_that_is_not_reset_is_caught(
    make_folder: Callable[..., Path],
    measure: Callable[..., Outcome],
    intact: Callable[[str], Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One cache serves every call of generate, and between calls its global layer keeps its tokens."""
    kept: list[Any] = []
    make = patches.generation.cache_for

    def keep(*args: Any) -> Any:
        if not kept:
            kept.append(make(*args))
        for layer in kept[0].layers:
            if isinstance(layer, WindowLayer):
                layer.reset()
        return kept[0]

    monkeypatch.setattr(patches.generation, "cache_for", keep)
    outcome = measure("consistency", read("broken", make_folder(global_layers="3")))
    rows = compared("consistency", intact("consistency"), outcome)
    assert is_worse(rows["cache_kl"]) and is_worse(rows["same_again"])
    assert any("something of one call is left in the next" in warning for warning in outcome.warnings)

"""``global_layers: auto:N``: measure the source with windows here and there, and choose."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from eval.logits import divergence, token_losses
from eval.progress import Reporter, Tick
from eval.text import TextSource
from recipes.errors import RecipeError
from recipes.placement.probes import PROBES, Ask, Row
from recipes.placement.ranking import Losses, passes, rank
from recipes.placement.record import Placement
from recipes.placement.switch import WindowSwitch
from recipes.schema import ConvertPart, PlacementPart
from recipes.uptrain.sources import read_documents

WINDOWS = 4
"""Windows in a row where the recipe does not say how long rows are."""
SPARE = 2
"""Times the tokens of the rows that are read of the text, for other haystacks."""


def place(part: ConvertPart, keep: int, how: PlacementPart, source: Path, reporter: Reporter) -> Placement:
    """Choose the layers that keep full attention.

    Args:
        part: The conversion, for its window.
        keep: How many layers to choose.
        how: Text, rows and probes; its data are given.
        source: The dense checkpoint.
        reporter: Where progress goes.

    Returns:
        The choice and both rankings.

    Raises:
        RecipeError: more layers than there are, a text that is too short, or rows that no window shortens.
        ConvertError: the source cannot have this window.
        EvalError: it does not load.
    """
    started = time.perf_counter()
    switch = WindowSwitch(source, part, how.device)
    if not 1 <= keep < switch.layers:
        raise RecipeError(
            f"global_layers=auto:{keep} must keep 1 to {switch.layers - 1} of the source's {switch.layers} "
            "layers"
        )
    length = _length(how, switch)
    text = _gather(how, switch, SPARE * how.rows * length)
    ask = Ask(switch, text, length, how.rows, how.seed)
    probes: dict[str, list[Row]] = {name: list(PROBES[name](ask)) for name in how.probes}
    runs = sum(map(len, probes.values()))
    with reporter.step("global layers", runs * passes(switch.layers, keep)) as tick:
        own = {name: _own_loss(switch, rows) for name, rows in probes.items()}
        ranking = rank(lambda choices: _losses(switch, probes, choices, tick), switch.layers, keep)
    return Placement(
        ranking=ranking,
        source_loss=own,
        counted={name: sum(len(row.queries) for row in rows) for name, rows in probes.items()},
        settings={"window": switch.window, "sinks": switch.sinks, "positions": part.positions}
        | {"length": length, "rows": how.rows, "seed": how.seed}
        | how.model_dump(mode="json", include={"data"}),
        wall_s=round(time.perf_counter() - started, 1),
    )


def _length(how: PlacementPart, switch: WindowSwitch) -> int:
    allowed = switch.loaded.checkpoint.allowed_length
    length = how.length or min(WINDOWS * switch.window, allowed or WINDOWS * switch.window)
    switch.loaded.checkpoint.check_length(length, "placement.length")
    if length < switch.reach + 2:
        raise RecipeError(
            f"placement.length={length}: a window of {switch.window} tokens and {switch.sinks} sinks hides "
            f"nothing in it; {switch.reach + 2} tokens or more are needed"
        )
    return length


def _gather(how: PlacementPart, switch: WindowSwitch, tokens: int) -> TextSource:
    """Documents of the text until they have ``tokens`` tokens, or all of them."""
    assert how.data is not None
    tokenizer = switch.loaded.tokenizer
    documents: list[str] = []
    for document in read_documents(how.data, tokenizer):
        documents.append(document)
        tokens -= len(tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"])
        if tokens <= 0:
            break
    return TextSource(tuple(documents), "placement.data")


def _own_loss(switch: WindowSwitch, rows: Iterable[Row]) -> float:
    """Loss of the source itself: near 0 where it knows what a probe asks."""
    every = range(switch.layers)
    losses = [
        token_losses(switch.logits(row.ids, row.queries, every)[None].cpu(), row.targets[None])
        for row in rows
    ]
    return sum(loss.sum().item() for loss in losses) / sum(loss.numel() for loss in losses)


def _losses(
    switch: WindowSwitch, probes: dict[str, list[Row]], choices: Sequence[tuple[int, ...]], tick: Tick
) -> list[Losses]:
    """KL from the source, by choice and probe; the source reads each row once for all choices."""
    found: list[Losses] = [{} for _ in choices]
    for name, rows in probes.items():
        sums = [0.0] * len(choices)
        for row in rows:
            known = switch.logits(row.ids, row.queries, range(switch.layers))[None]
            for number, choice in enumerate(choices):
                guessed = switch.logits(row.ids, row.queries, choice)[None]
                sums[number] += divergence(known, guessed, 1)[0].sum().item()
                tick(1)
        count = sum(len(row.queries) for row in rows)
        for losses, value in zip(found, sums, strict=True):
            losses[name] = value / count
    return found

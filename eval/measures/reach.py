"""Which tokens the attention of each layer sees, found by changing one, against what ``config.json`` says."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from eval.checkpoint import Checkpoint
from eval.contexts import pack
from eval.measures.base import Ask, Measure
from eval.probe import attention_modules, who_sees
from eval.results import Metric, Outcome
from patches.cache.policies.policy import Place

BEHIND = 4
"""Tokens that are changed behind the sinks, and tokens that are read beyond window and sinks."""
DENSE = 64
"""Tokens that are read where no layer has a window."""


def run(ask: Ask) -> Outcome:
    """Change single tokens in every layer's attention alone, and see which outputs change."""
    name, shape = ask.subject.name, ask.subject.checkpoint.shape
    if shape.layers is None:
        return Outcome(metrics=[], warnings=[f"{name}: reach not measured: {shape.reason}"])
    modules = attention_modules(ask.subject.model, len(shape.layers))
    if not modules:
        return Outcome(
            metrics=[], warnings=[f"{name}: reach not measured: its attention modules are not known"]
        )
    stated = _stated(ask.subject.checkpoint)
    tokens = _tokens(stated, ask.subject.checkpoint.allowed_length, ask.section.longest)
    places = [place for place in stated if _fits(place, tokens)]
    contexts = pack(ask.text, ask.subject.tokenizer, ask.subject.bos, tokens, contexts=1)
    sinks = range(max(place.sinks for place in stated))
    changed = sorted({*sinks[:1], *sinks[-1:], *range(len(sinks), len(sinks) + BEHIND)})
    seen = who_sees(ask.subject.model, modules, contexts.ids.to(ask.subject.device), changed)
    ask.tick(1)
    found = [_describe(place, seen, tokens) for place in places]
    right = sum(entry["as_configured"] for entry in found)
    metric = Metric(
        key="reach",
        label="Layers that see what config.json says",
        value=100 * right / len(found) if found else None,
        n=len(found),
        n_of="layers, exact count",
        unit="%",
        better="higher",
        headline=False,
    )
    warnings = _warnings(name, found, len(shape.layers) - len(found), tokens)
    return Outcome(metrics=[metric], detail={"tokens": tokens}, samples=found, warnings=warnings)


def _stated(checkpoint: Checkpoint) -> list[Place]:
    """The layers as ``config.json`` has them; not as ``patches`` reads it, which may be what is wrong."""
    places = [layer.place for layer in checkpoint.shape.layers or ()]
    window = checkpoint.record.config["attention_window"]
    if not window:
        return places
    return [
        replace(place, window=None, sinks=0)
        if place.layer in window["global_layers"]
        else replace(place, window=window["size"], sinks=window["sinks"])
        for place in places
    ]


def _tokens(places: list[Place], allowed: int | None, longest: int) -> int:
    """Tokens to read: a few more than window and sinks, as far as positions and the section allow."""
    most = min(longest, allowed or longest)
    needed = [place.window + place.sinks + BEHIND for place in places if place.window is not None]
    return max([length for length in needed if length <= most], default=min(DENSE, most))


def _fits(place: Place, tokens: int) -> bool:
    """Whether the end of the layer's window lies within the tokens."""
    return place.window is None or place.window + place.sinks + BEHIND <= tokens


def _describe(place: Place, seen: dict[int, Tensor], tokens: int) -> dict[str, Any]:
    """How far back a layer sees, its own token counted, and which of the changed sinks its last token misses.

    Args:
        seen: For each changed token, whether an output changed, ``[layers, tokens]``.
    """
    where = {
        position: changed[place.layer].nonzero().flatten().tolist() for position, changed in seen.items()
    }
    last = {position: max(changed, default=position) for position, changed in where.items()}
    # Weights of far tokens may round to nothing, so the farthest of several changes counts.
    farthest = max(last[position] - position + 1 for position in seen if position >= place.sinks)
    missed = [position for position in seen if position < place.sinks and last[position] < tokens - 1]
    ahead = any(min(changed, default=position) < position for position, changed in where.items())
    expected = tokens if place.window is None else place.window
    return {
        "layer": place.layer,
        "window": place.window,
        "sinks": place.sinks,
        "sees_back": farthest,
        "sees_ahead": ahead,
        "sinks_missed": missed,
        "as_configured": farthest == expected and not missed and not ahead,
    }


def _warnings(name: str, found: list[dict[str, Any]], left_out: int, tokens: int) -> list[str]:
    """Layers that are not what they are said to be, those alike together; and how many were not probed."""
    wrong: dict[str, list[int]] = {}
    for entry in found:
        if not entry["as_configured"]:
            said = "everything" if entry["window"] is None else f"{entry['window']} tokens"
            said += f" and {entry['sinks']} sinks" if entry["sinks"] else ""
            back = (
                "everything"
                if entry["sees_back"] == tokens - entry["sinks"]
                else f"{entry['sees_back']} tokens back"
            )
            missed = " and not its sinks" if entry["sinks_missed"] else ""
            ahead = " and tokens that come later" if entry["sees_ahead"] else ""
            wrong.setdefault(f"sees {back}{missed}{ahead}, config.json says {said}", []).append(
                entry["layer"]
            )
    warnings = [
        f"{name}: layers {', '.join(map(str, layers))}: attention {what}" for what, layers in wrong.items()
    ]
    if left_out:
        warnings.append(
            f"{name}: {left_out} layers have windows too long to be probed with {tokens} tokens "
            "(reach.longest, or the model's positions)"
        )
    return warnings


def check(checkpoint: Any, section: Any) -> None:
    """Nothing to refuse: what does not fit is not probed."""


REACH = Measure(
    name="reach",
    how=(
        "in every layer's attention alone, single tokens are changed and the outputs that change are noted: "
        "how far back it sees, and whether it sees the sinks. Exact, for the pass without a cache; "
        "consistency compares the cache with that pass."
    ),
    run=run,
    check=check,
    keys=("reach",),
    work=lambda section: 1,
)

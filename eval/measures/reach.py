"""Which tokens the attention of each layer sees, found by changing one, against what ``config.json`` says."""

from typing import Any

from torch import Tensor

from eval.contexts import pack
from eval.measures.base import Ask, Measure
from eval.memory import LayerCache
from eval.probe import attention_modules, who_sees
from eval.results import Metric, Outcome

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
    tokens = _tokens(ask.subject.checkpoint, ask.section)
    probed = {index: layer for index, layer in enumerate(shape.layers) if _fits(layer, tokens)}
    contexts = pack(ask.text, ask.subject.tokenizer, ask.subject.bos, tokens, 2)
    sinks = range(shape.sinks)
    changed = sorted({*sinks[:1], *sinks[-1:], *range(shape.sinks, shape.sinks + BEHIND)})
    seen = who_sees(ask.subject.model, modules, contexts.ids[:1].to(ask.subject.device), changed)
    ask.tick(1)
    found = [_describe(index, layer, seen, tokens) for index, layer in probed.items()]
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


def _tokens(checkpoint: Any, section: Any) -> int:
    """Tokens to read: a few more than window and sinks, as far as positions and the section allow."""
    most = min(section.longest, checkpoint.allowed_length or section.longest)
    needed = [layer.slots + BEHIND for layer in checkpoint.shape.layers if layer.kind != "full"]
    return max([length for length in needed if length <= most], default=min(DENSE, most))


def _fits(layer: LayerCache, tokens: int) -> bool:
    """Whether the end of the layer's window lies within the tokens."""
    return layer.kind == "full" or layer.slots + BEHIND <= tokens


def _describe(index: int, layer: LayerCache, seen: dict[int, Tensor], tokens: int) -> dict[str, Any]:
    """How far back a layer sees, its own token counted, and which of the changed sinks its last token misses.

    Args:
        seen: For each changed token, whether an output changed, ``[layers, tokens]``.
    """
    where = {position: changed[index].nonzero().flatten().tolist() for position, changed in seen.items()}
    last = {position: max(changed, default=position) for position, changed in where.items()}
    # Weights of far tokens may round to nothing, so the farthest of several changes counts.
    farthest = max(last[position] - position + 1 for position in seen if position >= layer.sinks)
    missed = [position for position in seen if position < layer.sinks and last[position] < tokens - 1]
    ahead = any(min(changed, default=position) < position for position, changed in where.items())
    expected = tokens if layer.kind == "full" else layer.window
    return {
        "layer": index,
        "window": None if layer.kind == "full" else layer.window,
        "sinks": layer.sinks,
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
    work=lambda section: 1,
)

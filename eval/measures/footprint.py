"""Bytes of the key/value cache: predicted by the config, and held by what ``generate`` returns."""

from typing import Any

import torch

from eval.checkpoint import Loaded, load
from eval.generation import generate_greedily
from eval.measures.base import Ask, Measure
from eval.memory import held_bytes
from eval.results import Metric, Outcome

DECODED = 4


def run(ask: Ask) -> Outcome:
    """Fill the cache to each length, in the checkpoint's own dtype, and count; draw the predicted curve."""
    section, subject = ask.section, _in_stored_dtype(ask.subject)
    shape, element_bytes = subject.checkpoint.shape, subject.dtype.itemsize
    metrics, points, warnings = [], [], []
    for length in section.lengths:
        predicted = shape.kv_bytes(length, element_bytes)
        after_prefill = held_bytes(_fill(subject, length, decoded=1))
        measured = held_bytes(_fill(subject, length, decoded=DECODED))
        points.append(
            {"length": length, "predicted": predicted, "measured": measured, "after_prefill": after_prefill}
        )
        longest = length == max(section.lengths)
        metrics += [
            _bytes(f"kv_bytes@{length}", f"KV cache at {length} tokens, held", measured, longest),
            _bytes(f"kv_predicted@{length}", f"KV cache at {length} tokens, predicted", predicted, False),
        ]
        if predicted is not None and predicted != measured:
            warnings.append(
                f"{subject.name}: the KV cache at {length} tokens holds {measured:,} bytes, predicted "
                f"{predicted:,}"
            )
        ask.tick(1)
    if shape.layers is None:
        warnings.append(f"{subject.name}: KV bytes not predicted: {shape.reason}")
    detail = {
        "dtype": str(subject.dtype).removeprefix("torch."),
        "points": points,
        "curve": _curve(shape, section, element_bytes),
    }
    return Outcome(metrics=metrics, detail=detail, warnings=warnings)


def _in_stored_dtype(subject: Loaded) -> Loaded:
    """The checkpoint as it would be served; measuring in float32 on a CPU would double its bytes."""
    stored = subject.checkpoint.stored_dtype
    return subject if subject.dtype == stored else load(subject.checkpoint, subject.device, stored)


def _fill(subject: Loaded, length: int, decoded: int) -> Any:
    """The cache after ``length`` tokens, the last ``decoded - 1`` of them fed one by one."""
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(subject.vocabulary, (1, length - decoded + 1), generator=generator)
    return generate_greedily(subject, ids, decoded).past_key_values


def _curve(shape: Any, section: Any, element_bytes: int) -> list[dict[str, int]]:
    """Predicted bytes at doubling lengths up to ``predict_to``."""
    if shape.layers is None:
        return []
    length, lengths = 128, set(section.lengths)
    while length <= section.predict_to:
        lengths.add(length)
        length *= 2
    return [{"length": n, "bytes": shape.kv_bytes(n, element_bytes)} for n in sorted(lengths)]


def _bytes(key: str, label: str, value: int | None, headline: bool) -> Metric:
    return Metric(
        key=key,
        label=label,
        value=value,
        n=1,
        n_of="sequence, exact count",
        unit="bytes",
        better="lower",
        headline=headline,
    )


def check(checkpoint: Any, section: Any) -> None:
    """Refuse lengths that the model's positions do not reach."""
    checkpoint.check_length(max(section.lengths), "footprint.lengths")


FOOTPRINT = Measure(
    name="footprint",
    how=(
        "bytes of storage behind the cache that generate returns for one sequence, in the checkpoint's own "
        f"dtype, the last {DECODED - 1} tokens decoded one by one; predicted by arithmetic from "
        "config.json. Exact counts."
    ),
    run=run,
    check=check,
    keys=("kv_bytes@*", "kv_predicted@*"),
    work=lambda section: len(section.lengths),
    uses_text=False,
)

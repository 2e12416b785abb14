"""What ``python -m patches list`` says: the backends that run here and what each serves; cache policies."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import torch
from torch._subclasses import FakeTensorMode

from patches.attention.backends import BACKENDS
from patches.attention.scoring import Scoring
from patches.cache.policies import POLICIES
from patches.frame import Frame, Step

HEAD_DIMS = (32, 64, 80, 96, 128, 192, 256, 320)
DTYPES = {"float16, bfloat16": torch.bfloat16, "float32": torch.float32}
WINDOW, SINKS, TOKENS = 64, 4, 96
SCORING = Scoring(0.125)
PADDED = torch.tensor([0, 3])
CALLS = {
    "prefill": (Step(0), TOKENS, SCORING),
    "prefill in chunks": (Step(TOKENS), TOKENS, SCORING),
    "decode": (Step(TOKENS), 1, SCORING),
    "prefill, padded rows": (Step(0, PADDED), TOKENS, SCORING),
    "decode, padded rows": (Step(TOKENS, PADDED), 1, SCORING),
    "softcap": (Step(0), TOKENS, replace(SCORING, softcap=30.0)),
    "sink logits": (Step(0), TOKENS, replace(SCORING, sink_logits=torch.zeros(8))),
    "positions in the cache": (Step(0), TOKENS, replace(SCORING, sink_query=torch.zeros(2, 8, TOKENS, 64))),
    "dropout": (Step(0), TOKENS, replace(SCORING, dropout=0.1)),
}
"""Kinds of call: the step, its tokens, how products become weights."""
SYMBOLS = (
    "K KV heads, D head_dim, e bytes of a number in the model's dtype, W and S tokens of window and sinks"
)
"""Of the formulas of cache policies."""


@dataclass(frozen=True)
class Served:
    """Which backend serves a kind of call.

    Attributes:
        device: ``cpu`` or ``cuda``.
        dtype: One or several.
        head_dims: As ``32-256`` or ``320``.
        calls: Kinds of call.
        by_rule: The backend that the rules prefer.
        here: The one that would serve on this machine; None where the device is missing.
    """

    device: str
    dtype: str
    head_dims: str
    calls: str
    by_rule: str
    here: str | None


def missing_on(device: str) -> str | None:
    """Why this machine has no such device, or None."""
    return "there is no CUDA device" if device == "cuda" and not torch.cuda.is_available() else None


def served() -> Iterator[Served]:
    """The selection, asked of the backends themselves; kinds of call that are served alike are one row."""
    for device in ("cpu", "cuda"):
        for said, dtype in DTYPES.items():
            alike: dict[tuple[str, str, str | None], list[str]] = {}
            for call in CALLS:
                for dims, by_rule, here in _by_head_dim(device, dtype, call):
                    alike.setdefault((dims, by_rule, here), []).append(call)
            for (dims, by_rule, here), calls in alike.items():
                kinds = "every call" if len(calls) == len(CALLS) else "; ".join(calls)
                yield Served(device, said, dims, kinds, by_rule, here)


def policies() -> dict[str, list[dict[str, str]]]:
    """What every cache policy is and can do, and what it holds: rows of columns, each for a table."""
    abilities, costs = [], []
    for policy in POLICIES.values():
        settings = ", ".join(f"{name}={value}" for name, value in asdict(policy.options()).items())
        abilities.append(
            {
                "cache": policy.name,
                "keeps": policy.summary,
                "settings": settings or "none",
                "layers": ", ".join(policy.kinds),
                "frees memory": _yes(policy.frees),
                "exact": _yes(policy.exact),
                "needs scores": _yes(policy.needs_scores),
                "padded rows": _yes(policy.padding),
                "beams": _yes(policy.beam),
                "compiles": _yes(policy.compiles),
            }
        )
        costs.append(
            {
                "cache": policy.name,
                "bytes of a layer and a sequence": policy.formula,
                "beside them, while a pass runs": policy.peak,
                "crop": policy.crop,
            }
        )
    return {"Cache policies, with their settings:": abilities, f"What they hold ({SYMBOLS}):": costs}


def _yes(ability: bool) -> str:
    return "yes" if ability else "no"


def _by_head_dim(device: str, dtype: torch.dtype, call: str) -> Iterator[tuple[str, str, str | None]]:
    """Runs of head dims that are served alike."""
    answers = [_serving(device, dtype, head_dim, call) for head_dim in HEAD_DIMS]
    begin = 0
    for end in range(1, len(HEAD_DIMS) + 1):
        if end == len(HEAD_DIMS) or answers[end] != answers[begin]:
            first, last = HEAD_DIMS[begin], HEAD_DIMS[end - 1]
            whole = begin == 0 and end == len(HEAD_DIMS)
            yield "any" if whole else str(first) if first == last else f"{first}-{last}", *answers[begin]
            begin = end


def _serving(device: str, dtype: torch.dtype, head_dim: int, call: str) -> tuple[str, str | None]:
    """By the rules, and on this machine."""
    step, tokens, scoring = CALLS[call]
    frame = Frame(step, tokens, WINDOW, SINKS)
    # No memory, and no device, is needed to ask.
    with FakeTensorMode():
        query = torch.empty(2, 8, tokens, head_dim, device=device, dtype=dtype)
    able = [
        backend
        for backend in BACKENDS.values()
        if backend.automatic and backend.refusal(query, frame, scoring) is None
    ]
    here = next(backend.name for backend in able if backend.missing() is None)
    return able[0].name, None if missing_on(device) else here

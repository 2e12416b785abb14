"""FlexAttention: PyTorch compiles the mask of window and sinks into a kernel of its own, by request only.

The table of blocks follows from the numbers of the window (``patches.kernels.bands``); numbers inside the
mask are tensors, so that one compilation serves every length.
"""

import os
import shutil
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, flex_attention

from patches.attention.parts import split
from patches.attention.scoring import Scoring
from patches.frame import Frame
from patches.kernels import language
from patches.kernels.bands import Band, block_mask
from patches.kernels.plain_sinks import Sinks, forward

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
HEAD_DIM_MIN = 16
COMPILERS = ("g++", "clang++", "cl")


def missing() -> str | None:
    """Why this machine cannot compile FlexAttention at all, or None."""
    if not torch._dynamo.is_dynamo_supported():
        return f"torch.compile does not support Python {sys.version.split()[0]} on {sys.platform}"
    return _no_compiler("cuda") if torch.cuda.is_available() else _no_compiler("cpu")


def refusal(query: Tensor, frame: Frame, scoring: Scoring) -> str | None:
    """Why FlexAttention cannot serve this call, or None."""
    device = query.device.type
    if device not in ("cpu", "cuda"):
        return f"it is compiled for cpu and cuda, and the tensors are on {device}"
    if query.dtype not in DTYPES:
        return f"it needs float16, bfloat16 or float32, not {str(query.dtype).removeprefix('torch.')}"
    if query.shape[-1] < HEAD_DIM_MIN:
        return f"head_dim={query.shape[-1]} is below {HEAD_DIM_MIN}"
    if frame.ragged:
        return "rows are padded"
    if frame.step.documents is not None:
        return "rows are packed, and a document has no table of blocks of its own"
    if frame.tokens == 1 and frame.step.past:
        return "one token after others has no blocks to skip"
    if scoring.softcap is not None and scoring.sink_query is not None:
        return "it has no softcap beside positions inside the cache"
    if scoring.dropout:
        return "it has no attention dropout"
    return _no_compiler(device) or (_beyond_cpu(query, scoring) if device == "cpu" else None)


def attend(query: Tensor, key: Tensor, value: Tensor, frame: Frame, scoring: Scoring) -> tuple[Tensor, None]:
    """Attend by a compiled kernel; arguments and output as ``patches.attention.eager.attend``, no weights.

    Holds: equals the reference (tests/patches/test_flex.py).
    """
    if scoring.sink_query is not None:
        return _beside_sinks(query, key, value, frame, scoring, scoring.sink_query), None
    output, lse = _flex(query, key, value, band_of(frame, key.shape[2]), scoring)
    if scoring.sink_logits is not None and lse is not None:
        # Of the sum of weights, the logit takes its share and gives it to no value.
        kept = torch.sigmoid(lse - scoring.sink_logits.float()[:, None])
        output = (output.float() * kept[..., None]).to(query.dtype)
    return output, None


def _beside_sinks(
    query: Tensor, key: Tensor, value: Tensor, frame: Frame, scoring: Scoring, sink_query: Tensor
) -> Tensor:
    """The window alone, and the sinks, which meet other queries, merged into it."""
    parts = split(key, value, frame)
    assert isinstance(parts.first, int) and isinstance(frame.first, int)
    keys, values = parts.keys[:, :, parts.first :], parts.values[:, :, parts.first :]
    # Queries among the sinks have no key in the window part.
    part = query[:, :, max(query.shape[2] - keys.shape[2], 0) :]
    lse: Tensor | None = query.new_empty(part.shape[:3], dtype=torch.float32)
    if part.shape[2]:
        columns = keys.shape[2]
        band = Band(part.shape[2], columns, frame.window or columns, sinks=0, first=0, low=0)
        part, lse = _flex(part, keys, values, band, scoring)
    assert lse is not None
    logits, first = scoring.sink_logits, frame.first
    return forward(
        part, lse, Sinks(sink_query, parts.sink_keys, parts.sink_values, logits, first, scoring.scale)
    )[0]


def band_of(frame: Frame, columns: int) -> Band:
    """The mask of a ``whole`` or ``chunk`` call over its ``N`` columns."""
    assert isinstance(frame.first, int)
    if frame.window is None:
        return Band(frame.tokens, columns, columns, sinks=0, first=0, low=0)
    sinks = min(frame.sinks, columns)
    # Further on, only distances matter, and calls share one table.
    first = min(frame.first, sinks)
    low = sinks
    if frame.layout == "chunk":
        low += max(frame.sinks - frame.first + frame.window - 1, 0)
    return Band(frame.tokens, columns, frame.window, sinks, first, low)


def _flex(
    query: Tensor, key: Tensor, value: Tensor, band: Band, scoring: Scoring
) -> tuple[Tensor, Tensor | None]:
    """FlexAttention over one band; the log-sum-exp only where something is added to it."""
    softcap = scoring.softcap
    wants_lse = scoring.sink_logits is not None or scoring.sink_query is not None
    result = _compiled()(
        query, key, value,
        score_mod=None if softcap is None else _capped(softcap),
        block_mask=block_mask(band, query.device),
        scale=scoring.scale,
        enable_gqa=query.shape[1] != key.shape[1],
        # The kernel for few queries is another one, which is given no shape here that it would be better at.
        kernel_options={"FORCE_USE_FLEX_ATTENTION": True} if query.is_cuda else None,
        return_aux=AuxRequest(lse=True) if wants_lse else None,
    )  # fmt: skip
    return (result[0], result[1].lse) if wants_lse else (result, None)


@cache
def _capped(softcap: float) -> Callable[..., Tensor]:
    def capped(score: Tensor, *_: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return capped


@cache
def _compiled() -> Any:
    return torch.compile(flex_attention, fullgraph=True)


@cache
def _no_compiler(device: str) -> str | None:
    """Why nothing can be compiled for a device, or None."""
    if device == "cuda":
        return language.missing()
    if sys.platform == "darwin" or not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return "PyTorch compiles it only for processors with AVX2, and not on macOS"
    named = os.environ.get("CXX")
    found = any(shutil.which(compiler) for compiler in ((named,) if named else COMPILERS))
    return None if found else f"there is no C++ compiler ({named or ', '.join(COMPILERS)})"


def _beyond_cpu(query: Tensor, scoring: Scoring) -> str | None:
    if query.requires_grad:
        return "compiled for a CPU it has no backward"
    if scoring.sink_logits is not None or scoring.sink_query is not None:
        return "compiled for a CPU it gives no log-sum-exp, which sink logits and other positions need"
    return None

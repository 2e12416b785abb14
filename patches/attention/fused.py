"""One Triton kernel for window and sinks together, forward and backward.

Only the blocks of keys that a block of queries can see are read, GQA heads share their keys, and everything
of ``Scoring`` but dropout happens inside the kernel.
"""

import torch
from torch import Tensor

from patches.attention.documents import attend_documents
from patches.attention.parts import split
from patches.attention.scoring import Scoring
from patches.frame import Frame
from patches.kernels import language

HEAD_DIM_MAX = {torch.float16: 256, torch.bfloat16: 256, torch.float32: 128}
CAPABILITY = (8, 0)
EVERYTHING = 1 << 30
"""A window that hides no key."""


def missing() -> str | None:
    """Why this machine cannot run the kernels, or None."""
    absent = language.missing()
    if absent is not None or language.interpreting():
        return absent
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    if torch.version.hip is not None:
        return "the kernels' tiles are made for NVIDIA"
    major, minor = torch.cuda.get_device_capability()
    return None if (major, minor) >= CAPABILITY else f"it needs compute capability 8.0, not {major}.{minor}"


def refusal(query: Tensor, frame: Frame, scoring: Scoring) -> str | None:
    """Why the kernels cannot serve this call, or None."""
    if query.device.type != "cuda" and not (language.interpreting() and query.device.type == "cpu"):
        return f"the tensors are on {query.device.type}"
    if query.dtype not in HEAD_DIM_MAX:
        return f"it needs float16, bfloat16 or float32, not {str(query.dtype).removeprefix('torch.')}"
    if query.dtype == torch.bfloat16 and query.device.type == "cpu":
        return "Triton's interpreter cannot multiply bfloat16"
    if query.shape[-1] > HEAD_DIM_MAX[query.dtype]:
        return f"head_dim={query.shape[-1]} is above {HEAD_DIM_MAX[query.dtype]}"
    if frame.layout in ("slots", "columns"):
        return "it does not read the slots of a cache in decoding"
    if frame.ragged and frame.step.past:
        return "rows are padded"
    if scoring.scale <= 0:
        return f"it needs a scale above 0, not {scoring.scale}"
    return "it has no attention dropout" if scoring.dropout else None


def attend(query: Tensor, key: Tensor, value: Tensor, frame: Frame, scoring: Scoring) -> tuple[Tensor, None]:
    """Attend with one kernel; arguments and output as ``patches.attention.eager.attend``, but no weights.

    Holds: equals the reference, forward and backward, at every boundary (tests/patches/test_fused.py).
    """
    if frame.ragged:
        rows = frame.step.rows(frame.tokens)
        return attend_documents(attend, query, key, value, frame, scoring, rows), None
    # Here and not above: this module is imported everywhere, triton is not installed everywhere.
    from patches.kernels.operator import attend as fused_attention

    parts = split(key, value, frame)
    assert isinstance(parts.first, int) and isinstance(frame.first, int)
    sinks = parts.sink_keys.shape[2]
    before = key.shape[2] - parts.keys.shape[2]
    # Under autocast, rotation leaves queries and keys wider than the values, whose type the output has.
    dtype = value.dtype
    turned = None if scoring.sink_query is None else scoring.sink_query.to(dtype)
    output, _ = fused_attention(
        query.to(dtype), key.to(dtype), value, turned, scoring.sink_logits,
        sinks, before + parts.first - sinks, EVERYTHING if frame.window is None else frame.window,
        frame.first, float(scoring.scale), float(scoring.softcap or 0.0),
    )  # fmt: skip
    return output, None

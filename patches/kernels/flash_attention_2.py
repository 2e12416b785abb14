"""FlashAttention-2 as PyTorch carries it, by the operators that take a window and give the log-sum-exp.

They are private to PyTorch, so their schema is checked once. 2.13 has arguments that 2.11 lacks; what is used
here is the same in both.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

CAPABILITY = (8, 0)
HEAD_DIM_MAX = 256
HEAD_DIM_STEP = 8
FORWARD = frozenset({"max_q", "is_causal", "scale", "window_size_left", "window_size_right"})
BACKWARD = FORWARD | {"rng_state", "unused"}


# Asked inside a compiled model, where the answer is a constant and the questions cannot be traced.
@torch.compiler.assume_constant_result
def missing() -> str | None:
    """Why this machine cannot run it, or None."""
    return _missing()


@cache
def _missing() -> str | None:
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    if torch.version.hip is not None:
        return "PyTorch for ROCm carries another implementation"
    best = max(torch.cuda.get_device_capability(device) for device in range(torch.cuda.device_count()))
    if best < CAPABILITY:
        return f"it needs compute capability {_dotted(CAPABILITY)}, and the best GPU here has {_dotted(best)}"
    if not torch.backends.cuda.is_flash_attention_available():
        return f"torch {torch.__version__} was built without it"
    for name, wanted in (("_flash_attention_forward", FORWARD), ("_flash_attention_backward", BACKWARD)):
        operator = getattr(torch.ops.aten, name, None)
        known = set() if operator is None else {each.name for each in operator.default._schema.arguments}
        if absent := sorted(wanted - known):
            return f"torch {torch.__version__}'s {name} lacks {', '.join(absent)}"
    return None


def forward(
    query: Tensor, key: Tensor, value: Tensor, window: int | None, scale: float, causal: bool = True
) -> tuple[Tensor, Tensor, Any]:
    """``patches.attention.two_part.WindowKernel.forward``; without ``causal``, every query sees every key."""
    q, k, v = (tensor.transpose(1, 2) for tensor in (query, key, value))
    output, lse, seed, unused, _ = torch.ops.aten._flash_attention_forward(
        q, k, v, None, None, q.shape[1], k.shape[1], 0.0, causal and q.shape[1] > 1, False, scale=scale,
        **_sides(window),
    )  # fmt: skip
    # A row that sees nothing says so by plus infinity.
    return output.transpose(1, 2), lse.masked_fill(lse == torch.inf, -torch.inf), (seed, unused)


def backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, lse: Tensor, state: Any,
    window: int | None, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """``patches.attention.two_part.WindowKernel.backward`` by FlashAttention-2."""
    g, q, k, v, out = (tensor.transpose(1, 2) for tensor in (grad, query, key, value, output))
    grads = torch.ops.aten._flash_attention_backward(
        g.contiguous(), q, k, v, out.contiguous(), lse.contiguous(), None, None, q.shape[1], k.shape[1], 0.0,
        q.shape[1] > 1, *state, scale=scale, **_sides(window),
    )  # fmt: skip
    d_query, d_key, d_value = (tensor.transpose(1, 2) for tensor in grads)
    return d_query, d_key, d_value


def _sides(window: int | None) -> dict[str, int]:
    """FlashAttention counts the neighbours of a token, the mask counts the token too."""
    return {} if window is None else {"window_size_left": window - 1, "window_size_right": 0}


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))

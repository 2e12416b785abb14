"""Element types of safetensors files."""

import torch

from convert.errors import ConvertError, unknown

ELEMENT_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
"""Bytes per element for every type whose elements are whole bytes."""

FLOATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
"""Types whose weights can be averaged or cast; anything narrower is a quantized format."""

NAMES = {
    "bfloat16": "BF16",
    "bf16": "BF16",
    "float16": "F16",
    "fp16": "F16",
    "float32": "F32",
    "fp32": "F32",
}
"""What ``--dtype`` accepts."""


def parse_dtype(name: str) -> str:
    """Translate a ``--dtype`` into the name that safetensors uses.

    Args:
        name: ``bfloat16``, ``float16``, ``float32`` or a short form.

    Returns:
        ``BF16``, ``F16`` or ``F32``.

    Raises:
        ConvertError: the name is not known.
    """
    if name.lower() not in NAMES:
        raise unknown("dtype", name, NAMES)
    return NAMES[name.lower()]


def config_name(dtype: str) -> str:
    """Give the name by which ``config.json`` calls a type: ``bfloat16`` for ``BF16``."""
    return str(FLOATS[dtype]).removeprefix("torch.")


def cast(tensor: torch.Tensor, dtype: str, name: str) -> torch.Tensor:
    """Convert a tensor and refuse when numbers become infinite.

    Args:
        tensor: Any floating tensor.
        dtype: Safetensors name of the wanted type.
        name: Name of the tensor, for the error.

    Returns:
        The tensor in the wanted type; itself if nothing changes.

    Raises:
        ConvertError: a finite number does not fit the wanted type.
    """
    result = tensor.to(FLOATS[dtype])
    if dtype == "F16" and bool((result.isinf() & tensor.isfinite()).any()):
        largest = float(tensor[tensor.isfinite()].abs().max())
        raise ConvertError(
            f"tensor {name!r} holds {largest:.3g}, beyond float16's 65504; use --dtype bfloat16 or float32"
        )
    return result

"""Element types of safetensors files."""

from convert.errors import unknown

ELEMENT_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
"""Bytes per element for every type whose elements are whole bytes."""

FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
"""Types whose weights can be averaged or cast, by torch's names; anything narrower is a quantized format."""

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
    return FLOATS[dtype]

"""Sizes, speeds and times as people write them."""

import re

from convert.errors import ConvertError

PREFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
NUMBER = r"\s*([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*"


def parse_bytes(option: str, text: str) -> int:
    """Read ``80GiB``, ``80GB`` or a number of bytes.

    Raises:
        ConvertError: it is none of these.
    """
    return round(_scaled(option, text, "b?", "80GiB, 80GB or a number of bytes"))


def parse_bandwidth(option: str, text: str) -> float:
    """Read ``3.35TB/s`` as bytes per second; errors as ``parse_bytes``."""
    return _scaled(option, text, "b/s", "3.35TB/s")


def parse_flops(option: str, text: str) -> float:
    """Read ``989TFLOP/s`` as operations per second; errors as ``parse_bytes``."""
    return _scaled(option, text, "flops?(?:/s)?", "989TFLOP/s")


def parse_count(option: str, text: str) -> int:
    """Read ``131072``, ``128k`` (of 1,024) or ``6.74B`` (of 10^9); errors as ``parse_bytes``."""
    match = re.fullmatch(NUMBER + "([kmb]?)", text.lower())
    if match is None or float(match[1]) <= 0:
        raise ConvertError(f"{option}={text!r} is not a count, such as 131072, 128k or 7B")
    return round(float(match[1]) * {"": 1, "k": 2**10, "m": 10**6, "b": 10**9}[match[2]])


def parse_seconds(option: str, text: str) -> float:
    """Read ``25ms`` or ``0.025s`` as seconds; errors as ``parse_bytes``."""
    match = re.fullmatch(NUMBER + "(ms|s)", text.lower())
    if match is None or float(match[1]) <= 0:
        raise ConvertError(f"{option}={text!r} is not a time, such as 25ms or 0.5s")
    return float(match[1]) * {"ms": 1e-3, "s": 1.0}[match[2]]


def _scaled(option: str, text: str, unit: str, example: str) -> float:
    match = re.fullmatch(f"{NUMBER}([kmgtp]i|[kmgtp]?){unit}", text.lower())
    value = 0.0 if match is None else float(match[1]) * (PREFIXES | BINARY).get(match[2], 0)
    if value <= 0:
        raise ConvertError(f"{option}={text!r} cannot be read; write it as {example}")
    return value

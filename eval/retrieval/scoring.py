"""How an answer is counted."""

import re
from collections.abc import Sequence


def found(answer: str, value: str) -> bool:
    """Whether the answer contains a number (RULER's criterion, arXiv 2404.06654), or a whole word."""
    if value.isdigit():
        return value in answer
    return re.search(rf"\b{re.escape(value)}\b", answer, re.IGNORECASE) is not None


def share_found(answer: str, values: Sequence[str]) -> float:
    """Share of the values that the answer contains, 0 to 1."""
    return sum(found(answer, value) for value in values) / len(values)


def exact(answer: str, values: Sequence[str]) -> bool:
    """Whether the first numbers of the answer are the values in any order, with no digit more or less."""
    numbers = re.findall(r"\d+", answer)[: len(values)]
    return sorted(numbers) == sorted(values)

"""What a cache policy is: its name, its settings, and the bytes that it holds."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from convert.errors import ConvertError

Kind = Literal["global", "window"]
KINDS: tuple[Kind, ...] = ("global", "window")
Settings = Mapping[str, Any]
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
"""What a number of bytes may be followed by."""
LONG = 2**20
"""Tokens over which the growth of a layer is averaged; blocks of any size fill on the way."""


@dataclass(frozen=True)
class Layer:
    """What decides the bytes that one layer keeps of one sequence.

    Args:
        kv_heads: Its KV heads.
        head_dim: Numbers per head.
        element_bytes: Bytes of a number in the model's dtype.
        window: Tokens it looks back, its own included; None in a global layer.
        sinks: First tokens that it sees as well; 0 in a global layer.
        alike: How many layers of the model are of its kind, global or with a window.
    """

    kv_heads: int
    head_dim: int
    element_bytes: int
    window: int | None = None
    sinks: int = 0
    alike: int = 1

    @property
    def token_bytes(self) -> int:
        """Key and value of one token as the model made them."""
        return 2 * self.kv_heads * self.head_dim * self.element_bytes

    @property
    def slots(self) -> int | None:
        """The most tokens that it sees; None: all."""
        return None if self.window is None else self.window + self.sinks


@dataclass(frozen=True)
class CachePolicy:
    """One way to keep tokens.

    Args:
        name: As in a config and on a command line.
        summary: What it does, in a clause.
        kinds: Kinds of layers that it serves.
        defaults: Its settings, in the order of the config.
        check: Raises ``ConvertError`` where settings are out of range.
        nbytes: What a layer holds once so many tokens were seen.
        plain: Whether tokens are kept as they are.
        budget: The most tokens that a global layer holds; None: all.
        missing: What a result does not hold yet and its cache will ask for, in a sentence; None: nothing.
    """

    name: str
    summary: str
    kinds: tuple[Kind, ...]
    defaults: Settings
    check: Callable[[Settings], None]
    nbytes: Callable[[Settings, Layer, int], int]
    plain: bool = False
    budget: Callable[[Settings, Layer], int | None] = lambda *_: None
    missing: Callable[[Settings], str | None] = lambda _: None


@dataclass(frozen=True)
class Choice:
    """A policy with its settings, for the layers of one kind."""

    policy: CachePolicy
    settings: Settings

    @property
    def spec(self) -> str:
        """As a user writes it, without settings left at their default."""
        told = [
            f"{key}={value}" for key, value in self.settings.items() if value != self.policy.defaults[key]
        ]
        return f"{self.policy.name}:{','.join(told)}" if told else self.policy.name

    @property
    def plain(self) -> bool:
        """Whether tokens are kept as they are."""
        return self.policy.plain

    def to_config(self) -> dict[str, Any]:
        """As it stands in ``config.json``."""
        return {"policy": self.policy.name, **self.settings}

    def nbytes(self, layer: Layer, tokens: int) -> int:
        """What a layer holds of one sequence once so many tokens were seen.

        Raises:
            ConvertError: the layer is too small or too large for the settings.
        """
        return self.policy.nbytes(self.settings, layer, tokens)

    def most(self, layer: Layer) -> int | None:
        """The most tokens that a layer holds; None: all."""
        return self.policy.budget(self.settings, layer) if layer.slots is None else layer.slots

    def read(self, layer: Layer, tokens: int) -> int:
        """What a decode step reads of that: nothing that is still empty."""
        most = self.most(layer)
        if self.plain:
            return layer.token_bytes * min(tokens, most or tokens)
        held = self.nbytes(layer, tokens)
        return held if most is None else held * min(tokens, most) // most

    def token_bytes(self, layer: Layer) -> Fraction:
        """What one token takes on average, of those that a layer holds."""
        most = self.most(layer)
        if most is not None:
            return Fraction(self.nbytes(layer, most), most)
        return Fraction(self.nbytes(layer, 2 * LONG) - self.nbytes(layer, LONG), LONG)


def check_count(name: str, value: object, least: int) -> None:
    """Check that a setting is a whole number.

    Raises:
        ConvertError: it is not, or is below ``least``.
    """
    if type(value) is not int or value < least:
        raise ConvertError(f"{name}={value!r} must be a whole number, at least {least}")


def read_bytes(name: str, value: object) -> int:
    """Read a setting in bytes: a number, or text such as ``64MiB``.

    Raises:
        ConvertError: it is neither, or below 1.
    """
    if type(value) is int and value > 0:
        return value
    read = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]i?B|B)", str(value))
    if read is None or float(read[1]) * UNITS[read[2]] < 1:
        raise ConvertError(f"{name}={value!r} must be bytes, such as 64MiB (units: {', '.join(UNITS)})")
    return int(float(read[1]) * UNITS[read[2]])


def check_one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Check that a setting is one of few.

    Raises:
        ConvertError: it is not.
    """
    if value not in allowed:
        raise ConvertError(f"{name}={value!r} must be one of: {', '.join(map(str, allowed))}")

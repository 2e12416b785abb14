"""What a cache policy is: how the layers of one kind keep their tokens, and what that means for a user."""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from transformers.cache_utils import CacheLayerMixin

from patches.cache.layout import Layout
from patches.policy import PolicyError

Kind = Literal["global", "window"]
KINDS: tuple[Kind, ...] = ("global", "window")
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
"""What a number of bytes may be followed by."""


@dataclass(frozen=True)
class Place:
    """Where a layer stands in its model.

    Attributes:
        layer: Its index.
        window: ``W``, tokens it looks back, its own included; None in a global layer.
        sinks: ``S``, first tokens that it sees as well; 0 in a global layer.
        alike: How many layers of the model are of its kind.
        layout: How tokens that are kept as they are lie in memory; None: what suits the device.
        checkpoint: Folder or hub id that the model was loaded from; empty for a model that was not.
    """

    layer: int
    window: int | None
    sinks: int
    alike: int
    layout: Layout | None = None
    checkpoint: str = ""


@dataclass(frozen=True)
class Tokens:
    """What decides the bytes of one layer and one sequence.

    Attributes:
        tokens: Seen so far.
        kv_heads: ``K``.
        head_dim: ``D``.
        element_bytes: Bytes of a number in the model's dtype.
        place: Where the layer stands.
    """

    tokens: int
    kv_heads: int
    head_dim: int
    element_bytes: int
    place: Place


@dataclass(frozen=True)
class CachePolicy:
    """One way to keep tokens.

    Attributes:
        name: What it is called, in a config and on a command line.
        summary: What it does, in a clause.
        kinds: Kinds of layers that it serves.
        options: A frozen dataclass of its settings, all with defaults; it checks itself when it is made.
        make: The layer for settings and a place.
        nbytes: What one layer holds for one sequence, by settings and tokens.
        formula: The same in words.
        frees: Whether it holds less memory than ``full``.
        needs_scores: Whether it has to know what weight each key received.
        exact: Whether the model computes what it would with ``full``.
        padding: Whether left-padded rows are what they are alone.
        beam: Whether rows can be reordered, repeated and selected.
        crop: How far back it can go.
        compiles: Whether a decode step can be compiled.
        peak: Bytes beside those that it keeps, while a pass runs.
    """

    name: str
    summary: str
    kinds: tuple[Kind, ...]
    options: type[Any]
    make: Callable[[Any, Place], CacheLayerMixin]
    nbytes: Callable[[Any, Tokens], int]
    formula: str
    frees: bool
    needs_scores: bool
    exact: bool
    padding: bool
    beam: bool
    crop: str
    compiles: bool
    peak: str


@dataclass(frozen=True)
class Choice:
    """A policy with its settings, for the layers of one kind."""

    policy: CachePolicy
    options: Any

    @property
    def spec(self) -> str:
        """As a user writes it: ``int4`` or ``int4:residual=64``, without settings left at their default."""
        default = self.policy.options()
        told = {
            name: value for name, value in asdict(self.options).items() if value != getattr(default, name)
        }
        return ":".join(
            [self.policy.name, *([",".join(f"{k}={v}" for k, v in told.items())] if told else [])]
        )

    def to_config(self) -> dict[str, Any]:
        """As it stands in ``config.json``."""
        return {"policy": self.policy.name, **asdict(self.options)}

    def make(self, place: Place) -> CacheLayerMixin:
        """The layer for a place."""
        return self.policy.make(self.options, place)

    def nbytes(self, tokens: Tokens) -> int:
        """What one layer holds for one sequence."""
        return self.policy.nbytes(self.options, tokens)


def choose(policy: CachePolicy, settings: dict[str, Any], where: str) -> Choice:
    """A policy with settings, checked.

    Args:
        policy: The policy.
        settings: By name; those that are missing keep their default.
        where: What to call them in an error.

    Raises:
        PolicyError: a name is unknown or a value out of range.
    """
    known = {field.name: field.type for field in fields(policy.options)}
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise PolicyError(
            f"{where}: {policy.name} has no {', '.join(unknown)}; it has {', '.join(known) or 'no settings'}"
        )
    try:
        return Choice(policy, policy.options(**settings))
    except PolicyError as error:
        raise PolicyError(f"{where}: {policy.name}: {error}") from None


def check_count(name: str, value: object, least: int) -> None:
    """Check that a setting is a whole number.

    Raises:
        PolicyError: it is not, or is below ``least``.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise PolicyError(f"{name}={value!r} must be a whole number, at least {least}")


def check_one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Check that a setting is one of few.

    Raises:
        PolicyError: it is not.
    """
    if value not in allowed:
        raise PolicyError(f"{name}={value!r} must be one of: {', '.join(map(str, allowed))}")


def read_bytes(name: str, value: object, allowed: str = "bytes") -> int:
    """A setting in bytes: a number, or text such as ``64MiB``.

    Args:
        name: Of the setting.
        value: Given for it.
        allowed: What else it may be, for the error.

    Raises:
        PolicyError: it is neither, or below 1.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    read = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]i?B|B)", str(value))
    if read is None or float(read[1]) * UNITS[read[2]] < 1:
        raise PolicyError(f"{name}={value!r} must be {allowed} such as 64MiB ({', '.join(UNITS)})")
    return int(float(read[1]) * UNITS[read[2]])

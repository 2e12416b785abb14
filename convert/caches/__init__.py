"""How a result keeps its tokens: the policies of ``kv_cache`` by name, and what a user writes for them.

A table of this room's own, which may not import the classes that read the key; a test holds the two together
(tests/convert/test_caches.py).
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from convert.caches import budgeted, full, low_rank, quantized
from convert.caches.policy import CachePolicy, Choice, Kind, Layer
from convert.errors import ConvertError, unknown

OPTIONS: dict[Kind, str] = {"global": "cache", "window": "window_cache"}
POLICIES: dict[str, CachePolicy] = {
    policy.name: policy
    for policy in (
        full.POLICY,
        quantized.INT8,
        quantized.INT4,
        budgeted.HEAVY_HITTER,
        budgeted.MERGE,
        low_rank.POLICY,
    )
}
FULL = Choice(full.POLICY, {})


def serving(kind: Kind) -> dict[str, CachePolicy]:
    """The policies for one kind of layers, by name."""
    return {name: policy for name, policy in POLICIES.items() if kind in policy.kinds}


@dataclass(frozen=True)
class KvCache:
    """How a model keeps its tokens.

    Args:
        global_layers: In layers that see everything.
        window_layers: In layers with a window.
    """

    global_layers: Choice = FULL
    window_layers: Choice = FULL

    @property
    def plain(self) -> bool:
        """Whether every layer keeps its tokens as they are."""
        return self.global_layers.plain and self.window_layers.plain

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, one sentence each."""
        chosen = (self.global_layers, self.window_layers)
        notes = (kept.policy.missing(kept.settings) for kept in chosen)
        return tuple(note for note in notes if note is not None)

    def of(self, layer: Layer) -> Choice:
        """How one layer keeps its tokens."""
        return self.global_layers if layer.window is None else self.window_layers

    def to_config(self) -> dict[str, Any]:
        """The value of ``kv_cache`` in ``config.json``."""
        return {"global": self.global_layers.to_config(), "window": self.window_layers.to_config()}


PLAIN = KvCache()


@cache
def parse_cache(spec: str, kind: Kind) -> Choice:
    """Read what ``--cache`` or ``--window-cache`` says: ``NAME`` or ``NAME:SETTING=VALUE,SETTING=VALUE``.

    Args:
        spec: What the user wrote.
        kind: For which layers.

    Returns:
        The policy with all its settings.

    Raises:
        ConvertError: the name or a setting is unknown, or a value is out of range.
    """
    option = OPTIONS[kind]
    name, _, told = spec.partition(":")
    able = serving(kind)
    if name not in able:
        raise unknown(option, name, able)
    policy = able[name]
    settings = dict(policy.defaults)
    for part in told.split(",") if told else ():
        key, equals, value = part.partition("=")
        if not equals:
            raise ConvertError(f"{option}={spec!r}: {part!r} must be SETTING=VALUE")
        if key not in settings:
            known = ", ".join(settings) or "no settings"
            raise ConvertError(f"{option}={spec!r}: {name} has no {key}; it has {known}")
        settings[key] = int(value) if re.fullmatch("-?[0-9]+", value) else value
    try:
        policy.check(settings)
    except ConvertError as error:
        raise ConvertError(f"{option}={spec!r}: {name}: {error}") from None
    return Choice(policy, settings)

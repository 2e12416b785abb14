"""The policies by name, and what a config, a command line or a call says of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from patches.cache.policies import full, heavy_hitter, int4, int8, low_rank, merge
from patches.cache.policies.policy import KINDS, CachePolicy, Choice, Kind, choose
from patches.policy import PolicyError

POLICIES: dict[str, CachePolicy] = {
    module.POLICY.name: module.POLICY for module in (full, int8, int4, heavy_hitter, merge, low_rank)
}
FULL = choose(full.POLICY, {}, "kv_cache")


@dataclass(frozen=True)
class KvCache:
    """How a model keeps its tokens: the ``kv_cache`` of a ``config.json``.

    Attributes:
        global_layers: For layers that see everything.
        window_layers: For layers with a window.
    """

    global_layers: Choice = FULL
    window_layers: Choice = FULL

    @classmethod
    def from_config(cls, entry: object) -> "KvCache":
        """Read and check the entry of a config; None is ``full`` everywhere.

        Raises:
            PolicyError: a key or a policy is unknown, or a setting is out of range.
        """
        if entry is None:
            return cls()
        if not isinstance(entry, Mapping) or not entry or set(entry) - set(KINDS):
            raise PolicyError(f"kv_cache={entry!r} must be a mapping with one or both of {', '.join(KINDS)}")
        chosen = {kind: _from_entry(kind, entry[kind]) for kind in KINDS if kind in entry}
        return cls(chosen.get("global", FULL), chosen.get("window", FULL))

    @classmethod
    def from_specs(cls, global_layers: str = "full", window_layers: str = "full") -> "KvCache":
        """Read what a user writes, such as ``int4`` or ``int8:residual=64``, for each kind of layer.

        Raises:
            PolicyError: a policy is unknown, or a setting is unknown or out of range.
        """
        return cls(parse(global_layers, "global"), parse(window_layers, "window"))

    def to_config(self) -> dict[str, Any] | None:
        """The entry as it stands in ``config.json``; None where nothing is compressed."""
        if self.plain:
            return None
        return {"global": self.global_layers.to_config(), "window": self.window_layers.to_config()}

    def __str__(self) -> str:
        return f"{self.global_layers.spec} in global and {self.window_layers.spec} in window layers"

    @property
    def plain(self) -> bool:
        """Whether every layer keeps its tokens as they are."""
        return self.global_layers.policy.exact and self.window_layers.policy.exact

    def of(self, window: int | None) -> Choice:
        """For a layer with or without a window."""
        return self.global_layers if window is None else self.window_layers


def parse(spec: str, kind: Kind) -> Choice:
    """A policy as a user writes it: ``NAME`` or ``NAME:SETTING=VALUE,SETTING=VALUE``.

    Raises:
        PolicyError: the name or a setting is unknown, or a value is out of range.
    """
    name, _, told = spec.partition(":")
    policy = _find(name, kind, f"cache {spec!r}")
    settings: dict[str, Any] = {}
    for part in told.split(",") if told else ():
        key, equals, value = part.partition("=")
        if not equals:
            raise PolicyError(f"cache {spec!r}: {part!r} must be SETTING=VALUE")
        settings[key] = int(value) if re.fullmatch("-?[0-9]+", value) else value
    return choose(policy, settings, f"cache {spec!r}")


def _from_entry(kind: Kind, entry: object) -> Choice:
    where = f"kv_cache.{kind}"
    if not isinstance(entry, Mapping) or not isinstance(entry.get("policy"), str):
        raise PolicyError(f"{where}={entry!r} must be a mapping with a policy and its settings")
    settings = {key: value for key, value in entry.items() if key != "policy"}
    return choose(_find(entry["policy"], kind, where), settings, where)


def _find(name: str, kind: Kind, where: str) -> CachePolicy:
    able = [policy.name for policy in POLICIES.values() if kind in policy.kinds]
    if name not in able:
        raise PolicyError(f"{where}: no policy {name!r} for {kind} layers; choose {', '.join(able)}")
    return POLICIES[name]

"""What a checkpoint says about how it attends: the ``attention_window`` key of ``config.json``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FIELDS = ("size", "sinks", "positions", "global_layers")
OPTIONAL = ("sink_logits",)
POSITIONS = ("absolute", "cache")


class PolicyError(ValueError):
    """What a checkpoint asks of attention cannot be, or is not, in force."""


@dataclass(frozen=True)
class WindowPolicy:
    """The window of every layer of a model.

    Attributes:
        size: ``W``, tokens that a query sees, its own included; None where no layer has a window.
        sinks: ``S``, first tokens of every row that all later queries see as well.
        positions: How far away the sinks look. ``absolute``: as far as they are. ``cache``: never farther
            than when the cache has just filled.
        global_layers: Layers that keep full causal attention, ascending.
        sink_logits: Whether windowed layers have learned logits in their softmax (``patches.sink_logits``).
    """

    size: int | None
    sinks: int
    positions: str
    global_layers: tuple[int, ...]
    sink_logits: bool = False

    @classmethod
    def from_config(cls, entry: object, layers: int) -> "WindowPolicy":
        """Read and check the ``attention_window`` entry of a config.

        Args:
            entry: The value of the key, as JSON gives it.
            layers: How many decoder layers the model has.

        Raises:
            PolicyError: a key is missing, unknown or out of range.
        """
        if not isinstance(entry, Mapping):
            raise PolicyError(
                f"attention_window must be a mapping with the keys {', '.join(FIELDS)}; config.json has "
                f"{entry!r}, and a windowed model without its window would attend densely"
            )
        wrong = sorted(set(entry).difference(OPTIONAL) ^ set(FIELDS))
        if wrong:
            raise PolicyError(
                f"attention_window needs exactly the keys {', '.join(FIELDS)}, and may have "
                f"{', '.join(OPTIONAL)}; not so: {', '.join(wrong)}"
            )
        size, sinks, positions, chosen = (entry[field] for field in FIELDS)
        if not _is_count(size, 1):
            raise PolicyError(f"attention_window.size={size!r} must be a whole number of tokens, at least 1")
        if not _is_count(sinks, 0):
            raise PolicyError(
                f"attention_window.sinks={sinks!r} must be a whole number of tokens, at least 0"
            )
        if positions not in POSITIONS:
            raise PolicyError(
                f"attention_window.positions={positions!r} must be one of: {', '.join(POSITIONS)}"
            )
        if not isinstance(chosen, list | tuple) or not all(
            _is_count(layer, 0) and layer < layers for layer in chosen
        ):
            raise PolicyError(
                f"attention_window.global_layers={chosen!r} must be a list of layers from 0 to {layers - 1}"
            )
        logits = entry.get("sink_logits", False)
        if not isinstance(logits, bool):
            raise PolicyError(f"attention_window.sink_logits={logits!r} must be true or false")
        return cls(size, sinks, positions, tuple(sorted(set(chosen))), logits)

    @property
    def turns(self) -> bool:
        """Whether queries are turned back for the sinks."""
        return self.size is not None and self.positions == "cache" and self.sinks > 0

    @classmethod
    def without_window(cls, layers: int) -> "WindowPolicy":
        """Full causal attention in all ``layers``."""
        return cls(None, 0, "absolute", tuple(range(layers)))

    def to_config(self) -> dict[str, Any] | None:
        """The entry as it stands in ``config.json``; None without a window."""
        if self.size is None:
            return None
        return {
            "size": self.size,
            "sinks": self.sinks,
            "positions": self.positions,
            "global_layers": list(self.global_layers),
        } | ({"sink_logits": True} if self.sink_logits else {})

    def window_of(self, layer: int) -> int | None:
        """Tokens that ``layer`` looks back, its own included; None where it keeps full attention."""
        return None if layer in self.global_layers else self.size


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least

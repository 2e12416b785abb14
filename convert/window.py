"""The window part of a request, checked against the source."""

from dataclasses import dataclass

from convert.attention import AttentionShape
from convert.errors import ConvertError, unknown
from convert.global_layers import parse_global_layers
from convert.request import Request

POSITIONS = ("absolute", "cache")


@dataclass(frozen=True)
class Window:
    """A checked request for windowed attention: sizes in tokens, layers that keep full attention."""

    size: int
    sinks: int
    positions: str
    global_layers: tuple[int, ...]

    def slots(self, layers: int) -> tuple[int | None, ...]:
        """Give the most tokens each layer's cache keeps, None for all."""
        kept = self.size + self.sinks
        return tuple(None if layer in self.global_layers else kept for layer in range(layers))


def read_window(request: Request, shape: AttentionShape) -> Window | None:
    """Check the window part of a request against the source.

    Args:
        request: The request.
        shape: Attention shape of the source.

    Returns:
        The window, or None if attention stays as it is, which is also the case when every layer is global.

    Raises:
        ConvertError: sizes are out of range, or a layer would attend farther than it ever did.
    """
    if request.positions not in POSITIONS:
        raise unknown("positions", request.positions, POSITIONS)
    if request.window is None:
        for name, value, idle in (
            ("sinks", request.sinks, 0),
            ("global_layers", request.global_layers, "none"),
            ("positions", request.positions, POSITIONS[0]),
        ):
            if value != idle:
                raise ConvertError(f"{name}={value} needs a window (give --window)")
        return None
    size, sinks = request.window, request.sinks
    if size < 1:
        raise ConvertError(f"window={size} must be at least 1 token")
    if not 0 <= sinks < size:
        raise ConvertError(f"sinks={sinks} must be from 0 to below the window of {size} tokens")
    chosen = parse_global_layers(request.global_layers, shape.layers)
    for layer, own in enumerate(shape.windows):
        if own is not None and (layer in chosen or size > own):
            wanted = "full attention" if layer in chosen else f"window={size}"
            raise ConvertError(
                f"{wanted} for layer {layer}: the source slides over {own} tokens there, it never saw farther"
            )
    return None if len(chosen) == shape.layers else Window(size, sinks, request.positions, chosen)

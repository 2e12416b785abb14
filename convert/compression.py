"""How a request wants its tokens kept, checked against the source."""

from convert.attention import AttentionShape
from convert.caches import KvCache, parse_cache
from convert.errors import ConvertError
from convert.families.family import Family
from convert.request import Request
from convert.tiers import check_no_slide, check_own_class
from convert.window import Window


def read_caches(request: Request) -> KvCache:
    """Read how a request wants its tokens kept.

    Raises:
        ConvertError: a policy or a setting is unknown, or a value out of range.
    """
    return KvCache(parse_cache(request.cache, "global"), parse_cache(request.window_cache, "window"))


def check_caches(
    request: Request, kept: KvCache, window: Window | None, family: Family, shape: AttentionShape
) -> None:
    """Check that a source has layers whose tokens can be kept so.

    Args:
        request: The request.
        kept: What it says of caches.
        window: Its checked window, or None.
        family: Family of the source.
        shape: Its attention shape.

    Raises:
        ConvertError: there is no layer of a kind, no class of the family that could, or one that slides.
    """
    if not kept.window_layers.plain and window is None:
        reason = (
            "needs a window (give --window)" if request.window is None else "has no layer: all are global"
        )
        raise ConvertError(f"window_cache={request.window_cache} {reason}")
    if not kept.global_layers.plain and window is not None and not window.global_layers:
        raise ConvertError(
            f"cache={request.cache} is for layers with full attention, and every layer has the window (give "
            "--global-layers, or --window-cache)"
        )
    if not kept.plain:
        wish = (
            f"cache={request.cache}" if kept.window_layers.plain else f"window_cache={request.window_cache}"
        )
        check_own_class(family, f"{wish}: {family.model_type} cannot keep its tokens so")
        if window is None:
            check_no_slide(family, shape, wish)

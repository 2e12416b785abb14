"""``heavy-hitter`` and ``merge``: at most a budget of tokens in every KV head, allocated at once."""

from convert.caches.policy import CachePolicy, Layer, Settings, check_count, check_one_of, read_bytes
from convert.errors import ConvertError

NOTED_BYTES = 8
"""Of a slot, beside its key and value: a position and a score."""


def check(settings: Settings) -> None:
    """Refuse what is out of range.

    Raises:
        ConvertError: a setting is, or a budget of tokens has no room for those that must stay.
    """
    check_count("sinks", settings["sinks"], 0)
    check_count("recent", settings["recent"], 1)
    check_one_of("scores", settings["scores"], ("sum", "mean"))
    if isinstance(settings["budget"], str):
        read_bytes("budget", settings["budget"])
    else:
        check_count("budget", settings["budget"], 1)
        _check_room(settings, settings["budget"], "")


def slots(settings: Settings, layer: Layer) -> int:
    """Tokens that each KV head keeps: the budget, or its share of bytes for all layers of the kind.

    Raises:
        ConvertError: the bytes have no room for the tokens that must stay.
    """
    budget = settings["budget"]
    if isinstance(budget, int):
        return budget
    found = read_bytes("budget", budget) // (layer.alike * layer.kv_heads * _slot_bytes(layer))
    shared = f"{layer.kv_heads} KV heads of {layer.alike} layers"
    _check_room(settings, found, f", which is {found} tokens in each of {shared}")
    return found


def nbytes(settings: Settings, layer: Layer, tokens: int) -> int:
    """All slots."""
    return slots(settings, layer) * layer.kv_heads * _slot_bytes(layer)


def _slot_bytes(layer: Layer) -> int:
    return 2 * layer.head_dim * layer.element_bytes + NOTED_BYTES


def _check_room(settings: Settings, found: int, meaning: str) -> None:
    least = settings["sinks"] + settings["recent"]
    if found < least:
        raise ConvertError(
            f"budget={settings['budget']!r}{meaning}: it must hold sinks={settings['sinks']} and "
            f"recent={settings['recent']}, at least {least} tokens"
        )


MERGE = CachePolicy(
    name="merge",
    summary="(draft)",
    kinds=("global",),
    defaults={"budget": 1024, "sinks": 4, "recent": 64, "scores": "sum"},
    check=check,
    nbytes=nbytes,
    budget=slots,
)
HEAVY_HITTER = CachePolicy(
    name="heavy-hitter",
    summary="the first, the latest and the most attended tokens, each KV head its own",
    kinds=("global",),
    defaults={"budget": 1024, "sinks": 4, "recent": 64, "scores": "sum"},
    check=check,
    nbytes=nbytes,
    budget=slots,
)

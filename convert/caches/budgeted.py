"""``heavy-hitter`` and ``merge``: at most a budget of tokens in every KV head, allocated at once."""

from functools import partial

from convert.caches.policy import CachePolicy, Layer, Settings, check_count, read_bytes
from convert.errors import ConvertError


def check(settings: Settings) -> None:
    """Refuse what is out of range.

    Raises:
        ConvertError: a setting is, or a budget of tokens has no room for those that must stay.
    """
    check_count("sinks", settings["sinks"], 0)
    check_count("recent", settings["recent"], 1)
    if isinstance(settings["budget"], str):
        read_bytes("budget", settings["budget"])
    else:
        check_count("budget", settings["budget"], 1)
        _check_room(settings, settings["budget"], "")


def slots(noted_bytes: int, settings: Settings, layer: Layer) -> int:
    """Tokens that each KV head keeps: the budget, or its share of bytes for all layers of the kind.

    Args:
        noted_bytes: Of a slot, beside its key and value.
        settings: Of the policy.
        layer: Where they are kept.

    Raises:
        ConvertError: the bytes have no room for the tokens that must stay.
    """
    budget = settings["budget"]
    if isinstance(budget, int):
        return budget
    found = read_bytes("budget", budget) // (layer.alike * _slots_bytes(noted_bytes, layer))
    meaning = f", which is {found} tokens in each of {layer.kv_heads} KV heads of {layer.alike} layers"
    _check_room(settings, found, meaning)
    return found


def nbytes(noted_bytes: int, settings: Settings, layer: Layer, tokens: int) -> int:
    """All slots, however many are filled."""
    return slots(noted_bytes, settings, layer) * _slots_bytes(noted_bytes, layer)


def _slots_bytes(noted_bytes: int, layer: Layer) -> int:
    """One slot in every KV head."""
    return layer.token_bytes + layer.kv_heads * noted_bytes


def _check_room(settings: Settings, found: int, meaning: str) -> None:
    least = settings["sinks"] + settings["recent"] + 1
    if found < least:
        raise ConvertError(
            f"budget={settings['budget']!r}{meaning}: it must hold sinks={settings['sinks']}, "
            f"recent={settings['recent']} and one more, at least {least} tokens"
        )


def _policy(name: str, summary: str, noted_bytes: int) -> CachePolicy:
    return CachePolicy(
        name=name,
        summary=summary,
        kinds=("global",),
        defaults={"budget": 1024, "sinks": 4, "recent": 64},
        check=check,
        nbytes=partial(nbytes, noted_bytes),
        budget=partial(slots, noted_bytes),
    )


HEAVY_HITTER = _policy(
    "heavy-hitter", "the first tokens, the latest and the most attended, each KV head its own", 8
)
MERGE = _policy(
    "merge", "the first tokens, the latest, and means of neighbours whose keys are alike, by KV head", 4
)

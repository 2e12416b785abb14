"""``low-rank``: of older tokens a few coordinates per KV head."""

from convert.caches.policy import CachePolicy, Layer, Settings, check_count, check_one_of, read_bytes
from convert.caches.room import room
from convert.errors import ConvertError


def check(settings: Settings) -> None:
    """Refuse what is out of range.

    Raises:
        ConvertError: a setting is, or says what another one says.
    """
    rank, budget, tokens = (settings[name] for name in ("rank", "budget", "tokens"))
    if rank is not None:
        check_count("rank", rank, 1)
    check_one_of("bases", settings["bases"], ("prompt", "calibration"))
    check_count("residual", settings["residual"], 1)
    check_count("sinks", settings["sinks"], 0)
    if (budget is None) != (tokens is None) or None not in (budget, rank):
        raise ConvertError("give rank, or budget and the tokens that it is for, or none of them")
    if budget is not None:
        read_bytes("budget", budget)
        check_count("tokens", tokens, 1)


def rank_of(settings: Settings, layer: Layer) -> int:
    """Coordinates of a key and of a value in each KV head.

    Raises:
        ConvertError: there are not so many dimensions, or the budget has no room for one coordinate.
    """
    dim, budget, rank = layer.head_dim, settings["budget"], settings["rank"]
    if budget is None:
        if rank is not None and rank > dim:
            raise ConvertError(f"low-rank: rank={rank} must be at most the model's head_dim of {dim}")
        return max(1, dim // 2) if rank is None else int(rank)
    unit = 2 * layer.kv_heads * layer.element_bytes * layer.alike
    room, tokens = read_bytes("budget", budget) // unit, settings["tokens"]
    fits = [rank for rank in range(1, dim + 1) if _numbers(settings, layer, tokens, rank) <= room]
    if not fits:
        raise ConvertError(
            f"low-rank: budget={budget} has no room for tokens={tokens} in {layer.alike} layers; "
            f"{unit * _numbers(settings, layer, tokens, 1)} bytes have"
        )
    return max(fits)


def nbytes(settings: Settings, layer: Layer, tokens: int) -> int:
    """Sinks and latest tokens, coordinates of the others with room for some more, and the bases."""
    numbers = _numbers(settings, layer, tokens, rank_of(settings, layer))
    return 2 * layer.kv_heads * layer.element_bytes * numbers


def missing(settings: Settings) -> str | None:
    """Say what has to be fitted to a text before the first token."""
    if settings["bases"] == "prompt":
        return None
    return "Its bases are fitted to a text once it is there: python -m patches bases DST --text FILE"


def _numbers(settings: Settings, layer: Layer, tokens: int, rank: int) -> int:
    """What is held of the keys of one KV head: how many numbers."""
    exact = settings["sinks"] + min(tokens, settings["residual"])
    older = max(0, tokens - settings["sinks"] - settings["residual"])
    fitted = rank < layer.head_dim and (older > 0 or settings["bases"] == "calibration")
    return exact * layer.head_dim + room(older) * rank + fitted * layer.head_dim * rank


POLICY = CachePolicy(
    name="low-rank",
    summary="old tokens as coordinates in a few directions per KV head",
    kinds=("global",),
    defaults={
        "rank": None,
        "budget": None,
        "tokens": None,
        "bases": "prompt",
        "residual": 128,
        "sinks": 4,
    },
    check=check,
    nbytes=nbytes,
    missing=missing,
)

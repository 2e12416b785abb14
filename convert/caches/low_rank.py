"""``low-rank``: of older tokens a few coordinates per KV head."""

from convert.caches.policy import CachePolicy, Layer, Settings, check_count, check_one_of
from convert.errors import ConvertError

GROWTH = 64
"""Tokens by which the room for coordinates grows."""


def check(settings: Settings) -> None:
    """Refuse what is out of range.

    Raises:
        ConvertError: a setting is.
    """
    if settings["rank"] is not None:
        check_count("rank", settings["rank"], 1)
    check_one_of("bases", settings["bases"], ("prompt", "calibration"))
    check_count("residual", settings["residual"], 1)
    check_count("sinks", settings["sinks"], 0)


def rank_of(settings: Settings, layer: Layer) -> int:
    """Coordinates of a key and of a value.

    Raises:
        ConvertError: heads have fewer numbers.
    """
    rank = max(1, layer.head_dim // 2) if settings["rank"] is None else settings["rank"]
    if rank > layer.head_dim:
        raise ConvertError(f"low-rank: rank={rank} must be at most the model's head_dim of {layer.head_dim}")
    return int(rank)


def nbytes(settings: Settings, layer: Layer, tokens: int) -> int:
    """Sinks and latest tokens, coordinates of the others in steps of room, and the bases."""
    dim, rank = layer.head_dim, rank_of(settings, layer)
    exact = settings["sinks"] + min(tokens, settings["residual"])
    older = max(0, tokens - settings["sinks"] - settings["residual"])
    fitted = rank < dim and (older > 0 or settings["bases"] == "calibration")
    numbers = exact * dim + -(-older // GROWTH) * GROWTH * rank + fitted * dim * rank
    return 2 * layer.kv_heads * layer.element_bytes * numbers


POLICY = CachePolicy(
    name="low-rank",
    summary="old tokens as coordinates in a few directions per KV head",
    kinds=("global",),
    defaults={"rank": None, "bases": "prompt", "residual": 128, "sinks": 4},
    check=check,
    nbytes=nbytes,
)

"""``low-rank``: of old tokens a few coordinates per KV head."""

from dataclasses import dataclass
from functools import partial

from patches.cache.bases import find_file, read_bases
from patches.cache.low_rank import LowRankLayer
from patches.cache.policies.policy import (
    CachePolicy,
    Place,
    Tokens,
    check_count,
    check_one_of,
    read_bytes,
)
from patches.cache.room import room
from patches.policy import PolicyError


@dataclass(frozen=True)
class Options:
    """Settings of ``low-rank``.

    One rank serves the keys and the values of all layers. Sharing coordinates out by how fast the spectra
    fall was measured and is no better: it helps at three quarters of ``head_dim`` and harms at half.

    Attributes:
        rank: Coordinates of a key and of a value in each KV head. None: as the budget says, or else half of
            ``head_dim``.
        budget: Bytes, or text such as ``64MiB``, for ``tokens`` tokens of one sequence in all layers alike.
        tokens: How many tokens the budget is for; more are refused.
        bases: Where the directions come from: ``prompt`` or ``calibration``.
        residual: Latest tokens that stay as they are, in tokens.
        sinks: First tokens that stay as they are, in tokens.
    """

    rank: int | None = None
    budget: int | str | None = None
    tokens: int | None = None
    bases: str = "prompt"
    residual: int = 128
    sinks: int = 4

    def __post_init__(self) -> None:
        """Check what can be checked without a model.

        Raises:
            PolicyError: a setting is out of range, or says what another one says.
        """
        if self.rank is not None:
            check_count("rank", self.rank, 1)
        check_one_of("bases", self.bases, ("prompt", "calibration"))
        check_count("residual", self.residual, 1)
        check_count("sinks", self.sinks, 0)
        if (self.budget is None) != (self.tokens is None) or None not in (self.budget, self.rank):
            raise PolicyError("give rank, or budget and the tokens that it is for, or none of them")
        if self.budget is not None:
            read_bytes("budget", self.budget)
            check_count("tokens", self.tokens, 1)

    def rank_of(self, tokens: Tokens) -> int:
        """Coordinates for a layer of this shape and place.

        Raises:
            PolicyError: there are not so many dimensions, or the budget has no room for one coordinate.
        """
        dim = tokens.head_dim
        if self.budget is None or self.tokens is None:
            rank = max(1, dim // 2) if self.rank is None else self.rank
            if rank > dim:
                raise PolicyError(f"low-rank: rank={rank} must be at most the model's head_dim of {dim}")
            return rank
        unit = 2 * tokens.kv_heads * tokens.element_bytes * tokens.place.alike
        numbers = read_bytes("budget", self.budget) // unit
        fits = [rank for rank in range(1, dim + 1) if self.numbers(self.tokens, dim, rank) <= numbers]
        if not fits:
            raise PolicyError(
                f"low-rank: budget={self.budget} has no room for tokens={self.tokens} in "
                f"{tokens.place.alike} layers; {unit * self.numbers(self.tokens, dim, 1)} bytes have"
            )
        return max(fits)

    def numbers(self, count: int, dim: int, rank: int) -> int:
        """What is held of the keys of one KV head after ``count`` tokens: how many numbers."""
        exact = self.sinks + min(count, self.residual)
        projected = max(0, count - self.sinks - self.residual)
        fitted = rank < dim and (projected > 0 or self.bases == "calibration")
        return exact * dim + room(projected) * rank + fitted * dim * rank


def make(options: Options, place: Place) -> LowRankLayer:
    """The layer; calibrated bases are looked for now and read with the first tokens."""

    def rank(kv_heads: int, head_dim: int, element_bytes: int) -> int:
        return options.rank_of(Tokens(0, kv_heads, head_dim, element_bytes, place))

    known = None
    if options.bases == "calibration":
        find_file(place.checkpoint)
        known = partial(read_bases, place.checkpoint, place.layer)
    return LowRankLayer(options.sinks, options.residual, rank, known, options.tokens)


def nbytes(options: Options, tokens: Tokens) -> int:
    """Sinks and latest tokens, coordinates of the others with room for some more, and the bases."""
    numbers = options.numbers(tokens.tokens, tokens.head_dim, options.rank_of(tokens))
    return 2 * tokens.kv_heads * tokens.element_bytes * numbers


POLICY = CachePolicy(
    name="low-rank",
    summary="old tokens as coordinates in a few directions per KV head",
    kinds=("global",),
    options=Options,
    make=make,
    nbytes=nbytes,
    formula="2 K e (D (sinks + min(n, residual)) + rank room(n - sinks - residual) + D rank for the bases)",
    frees=True,
    needs_scores=False,
    exact=False,
    padding=True,
    beam=True,
    crop="the latest tokens, up to residual",
    compiles=False,
    peak="sinks and latest tokens twice; coordinates of the keys or the values of a layer twice while their "
    "room grows",
)

"""``merge``: neighbours whose keys are alike become one token, which counts as many times."""

from patches.cache.budget import Budget
from patches.cache.merging import MergingLayer
from patches.cache.policies.policy import CachePolicy, Place, Tokens


def make(options: Budget, place: Place) -> MergingLayer:
    """A layer within the budget."""
    return MergingLayer(options, place)


def nbytes(options: Budget, tokens: Tokens) -> int:
    """Every slot of the budget: key, value and count."""
    return options.nbytes(tokens, MergingLayer.noted_bytes())


POLICY = CachePolicy(
    name="merge",
    summary="the first tokens, the latest, and means of neighbours whose keys are alike, by KV head",
    kinds=("global",),
    options=Budget,
    make=make,
    nbytes=nbytes,
    formula="budget K (2 D e + 4), at once",
    frees=True,
    needs_scores=False,
    exact=False,
    padding=True,
    beam=True,
    crop="any token until some are merged",
    compiles=False,
    peak="the tokens of one pass and, where a row merges, the slots a second time",
)

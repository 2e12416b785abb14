"""``heavy-hitter``: the first tokens, the latest, and those that received the most attention."""

from patches.cache.budget import Budget
from patches.cache.budgeted import BudgetedLayer
from patches.cache.policies.policy import CachePolicy, Place, Tokens


def make(options: Budget, place: Place) -> BudgetedLayer:
    """A layer within the budget."""
    return BudgetedLayer(options, place)


def nbytes(options: Budget, tokens: Tokens) -> int:
    """Every slot of the budget: key, value, position and score."""
    return options.nbytes(tokens, BudgetedLayer.noted_bytes())


POLICY = CachePolicy(
    name="heavy-hitter",
    summary="the first tokens, the latest and the most attended, each KV head its own",
    kinds=("global",),
    options=Budget,
    make=make,
    nbytes=nbytes,
    formula="budget K (2 D e + 8), at once",
    frees=True,
    needs_scores=True,
    exact=False,
    padding=True,
    beam=True,
    crop="any token until one is evicted; the weight that it gave to others stays counted",
    compiles=False,
    peak="the tokens of one pass, and weights of 512 queries on 1,024 keys per head",
)

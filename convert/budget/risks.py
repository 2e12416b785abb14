"""What a combination may cost in quality, and the measure that would show it."""

from dataclasses import dataclass

from convert.budget.combination import Combination
from convert.budget.model import Model

EASY_RATIO = 4
"""Heads per group up to which uptraining on 5% of the pretraining text regains the quality (GQA, arXiv
2305.13245, figure 3: 8 groups of the 64 heads of T5-XXL are near the original, one is not)."""

EVAL, EVAL_CACHE = "`python -m eval`", "`python -m eval cache`"


@dataclass(frozen=True)
class Risk:
    """What a mechanism may cost in quality.

    Attributes:
        mechanism: ``heads``, ``window`` or ``cache``.
        level: 0 nothing, 1 small, or regained by a short training, 2 needs training and a look at the suites
            named, 3 something is lost for good.
        what: In words.
        watch: The measures that would show it, and their command.
    """

    mechanism: str
    level: int
    what: str
    watch: str


CACHE_RISKS = {
    "int8": Risk("cache", 1, "keys and values are rounded to 8 bits", f"perplexity ({EVAL_CACHE})"),
    "int4": Risk("cache", 1, "keys and values are rounded to 4 bits", f"perplexity, needle ({EVAL_CACHE})"),
    "heavy-hitter": Risk(
        "cache",
        3,
        "all but a budget of tokens per head are evicted: facts in them are lost",
        f"needle, recurring-key ({EVAL_CACHE})",
    ),
    "merge": Risk(
        "cache",
        3,
        "all but a budget of tokens per head are means of several: facts blur",
        f"needle, recurring-key ({EVAL_CACHE})",
    ),
    "low-rank": Risk(
        "cache",
        3,
        "old keys and values keep a few directions each: the others are lost",
        f"needle, recurring-key ({EVAL_CACHE})",
    ),
}
"""By policy."""


def weigh_risks(model: Model, combination: Combination, context: int) -> tuple[Risk, ...]:
    """What a combination may cost at a context: one entry per mechanism that changes anything there."""
    risks = []
    ratio = model.kv_heads // combination.kv_heads
    if ratio > 1 and combination.kv_heads == 1:
        what = "all query heads share one key and value: head diversity is gone"
        risks.append(Risk("heads", 3, what, f"perplexity, tasks, needle ({EVAL})"))
    elif ratio > 1:
        what = f"{ratio} heads share one key and value: less head diversity"
        risks.append(Risk("heads", 1 if ratio <= EASY_RATIO else 2, what, f"perplexity, tasks ({EVAL})"))
    window = combination.window
    if window is not None and window < context:
        if combination.reach(model) is None:
            what = f"only the global layers ({combination.global_layers}) see past {window} tokens"
            risks.append(Risk("window", 2, f"{what}: weaker long-range dependencies", f"needle ({EVAL})"))
        else:
            what = f"nothing reads a token more than {window} back directly"
            risks.append(
                Risk(
                    "window",
                    3,
                    f"{what}: facts there are lost, and perplexity does not show it",
                    f"needle ({EVAL})",
                )
            )
    risk = _cache_risk(model, combination, context)
    return (*risks, risk) if risk else tuple(risks)


def _cache_risk(model: Model, combination: Combination, context: int) -> Risk | None:
    """The worst that happens to the tokens of any layer."""
    shape = combination.cache_shape(model)
    found = []
    for _, layer in shape.layers():
        kept = shape.kept.of(layer)
        most = kept.most(layer)
        if not kept.plain and (layer.slots is not None or most is None or most < context):
            found.append(CACHE_RISKS[kept.policy.name])
    return max(found, key=lambda risk: risk.level, default=None)

"""Two rankings of layers by loss: each layer windowed alone, and greedily from a window everywhere."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Losses = dict[str, float]
"""By probe, nats per token that counts."""
Measure = Callable[[Sequence[tuple[int, ...]]], list[Losses]]
"""Losses of several choices of global layers."""


@dataclass(frozen=True)
class Round:
    """One round of the greedy choice.

    Attributes:
        layer: Who gets full attention back.
        losses: With it.
        tried: Total loss with each layer that had none so far.
    """

    layer: int
    losses: Losses
    tried: dict[int, float]


@dataclass(frozen=True)
class Ranking:
    """What was measured.

    Attributes:
        windowed: Losses with a window in every layer.
        alone: For each layer the losses with a window in it alone, the costliest first.
        rounds: The greedy choice, one layer after the other.
    """

    windowed: Losses
    alone: tuple[tuple[int, Losses], ...]
    rounds: tuple[Round, ...]

    @property
    def chosen(self) -> tuple[int, ...]:
        """The layers that keep full attention, ascending."""
        return tuple(sorted(each.layer for each in self.rounds))


def total(losses: Losses) -> float:
    """One number: all are KL in nats per token, so what a window harms most counts most."""
    return sum(losses.values())


def passes(layers: int, keep: int) -> int:
    """Choices that :func:`rank` measures."""
    return 1 + layers + sum(layers - done for done in range(keep))


def rank(measure: Measure, layers: int, keep: int) -> Ranking:
    """Rank the layers and choose those that keep full attention.

    Args:
        measure: Losses of choices of global layers.
        layers: Of the model.
        keep: How many to choose, 1 to ``layers - 1``.

    Returns:
        Both rankings. The choice is the greedy one: what a layer is worth when all others see everything says
        little where several can do the same, and nothing where two are needed together.
    """
    every = range(layers)
    without = [tuple(other for other in every if other != layer) for layer in every]
    windowed, *alone = measure([(), *without])
    chosen: list[int] = []
    rounds = []
    for _ in range(keep):
        left = [layer for layer in every if layer not in chosen]
        tried = dict(zip(left, measure([tuple(sorted([*chosen, layer])) for layer in left]), strict=True))
        best = min(left, key=lambda layer: total(tried[layer]))
        chosen.append(best)
        rounds.append(Round(best, tried[best], {layer: total(losses) for layer, losses in tried.items()}))
    costliest = sorted(zip(every, alone, strict=True), key=lambda each: -total(each[1]))
    return Ranking(windowed, tuple(costliest), tuple(rounds))

"""What a row must compute and read, whoever does it."""

from dataclasses import dataclass

from eval.speed.records import BACKWARD, FORWARD, MODEL, Ask, Row

WITH_BACKWARD = 3.5
"""FlashAttention's count: two products forward, five more backward."""


@dataclass(frozen=True)
class Costs:
    """Floating-point operations of the products, and bytes that must be read or written once."""

    flop: float
    moved_bytes: float


def costs_of(ask: Ask, row: Row) -> Costs:
    """The costs of the function that the row's contender computes.

    Args:
        ask: Shape and dtype.
        row: Phase, length, batch and which keys a query meets.
    """
    shape, window, size = ask.shape, ask.window, ask.element_bytes
    sinks = ask.sinks if row.computes == "window + sinks" else 0
    dense = row.computes == "dense"
    per_pair = 4 * row.batch * shape.heads * shape.head_dim
    if row.phase in (FORWARD, BACKWARD):
        flop = per_pair * _pairs(row.length, row.length if dense else window, sinks)
        states = (2 * shape.heads + 2 * shape.kv_heads) * shape.head_dim
        forward = Costs(flop, size * row.batch * row.length * states)
        # Queries, keys, values and output each have a gradient of their size.
        return forward if row.phase == FORWARD else Costs(WITH_BACKWARD * flop, 2 * forward.moved_bytes)
    keys = row.length + 1 if dense else min(row.length + 1, window + sinks)
    attention = Costs(per_pair * keys, shape.cache_bytes(keys, row.batch, size))
    if row.phase != MODEL:
        return attention
    return Costs(
        shape.layers * attention.flop + 2 * row.batch * shape.weights_per_step,
        shape.layers * attention.moved_bytes + size * shape.weights_per_step,
    )


def _pairs(tokens: int, window: int, sinks: int) -> int:
    """Pairs of a query and a key that it sees."""

    def triangle(count: int) -> int:
        return count * (count + 1) // 2

    in_window = triangle(tokens) - triangle(max(tokens - window, 0))
    # Sink j is out of the window of the queries from j + W on.
    return in_window + sum(max(tokens - window - sink, 0) for sink in range(sinks))

"""Buckets of positions in a context, in which losses are averaged."""

SMALLEST, MOST = 16, 8


def position_buckets(length: int) -> list[int]:
    """Edges of buckets that double towards the end: ``[1, .., length / 4, length / 2, length]``.

    The first bucket begins at 1, the first token that is predicted; each ends before the next edge.
    """
    edges = [length]
    while edges[0] // 2 >= SMALLEST and len(edges) < MOST:
        edges.insert(0, edges[0] // 2)
    return [1, *edges]

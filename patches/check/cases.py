"""The cases that every backend is held against: one thing is varied at a time, around every boundary."""

from dataclasses import dataclass, replace

WINDOW, SINKS = 32, 4
BOUNDARIES = (1, SINKS, SINKS + 1, WINDOW - 1, WINDOW, WINDOW + 1, WINDOW + SINKS, WINDOW + SINKS + 1)


@dataclass(frozen=True)
class Case:
    """One call, or one row fed to a cache in passes.

    Attributes:
        about: What is varied.
        passes: Tokens of each pass; more than one go through a cache.
        heads: ``H``.
        kv_heads: ``K``.
        head_dim: ``D``.
        window: ``W``; None for full causal attention.
        sinks: ``S``.
        begins: Of each row, where its documents begin; columns before the first are padding.
        softcap: As in ``Scoring``.
        sink_logits: Whether there are any.
        sink_query: Whether the sinks meet queries of their own.
    """

    about: str
    passes: tuple[int, ...] = (150,)
    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 64
    window: int | None = WINDOW
    sinks: int = SINKS
    begins: tuple[tuple[int, ...], ...] = ((0,), (0,))
    softcap: float | None = None
    sink_logits: bool = False
    sink_query: bool = False

    @property
    def length(self) -> int:
        """``N``, tokens of a row."""
        return sum(self.passes)

    @property
    def packed(self) -> bool:
        """Whether a row holds several documents."""
        return any(len(row) > 1 for row in self.begins)

    @property
    def padded(self) -> bool:
        """Whether rows begin at different columns."""
        return any(row[0] > 0 for row in self.begins)


def matrix(quick: bool) -> list[Case]:
    """All cases; with ``quick`` a smaller one of every kind."""
    plain = Case("")
    lengths = (1, SINKS + 1, WINDOW + SINKS + 1) if quick else (*BOUNDARIES, 150, 700)
    groups = ((8, 1),) if quick else ((8, 8), (8, 1), (32, 8), (6, 2), (1, 1))
    dims = (80,) if quick else (32, 80, 96, 128, 256)
    windows = ((1, 0), (5, 12)) if quick else ((1, 0), (1, 4), (64, 0), (5, 12), (1000, 4), (None, 4))
    chunks = ((20, 60),) if quick else ((75, 75), (2, 100, 48), (33, 5, 62), (140, 10))
    decodes = ((34, 1, 1, 1, 1),) if quick else ((100, *[1] * 40), (2, *[1] * 60), (36, 1, 1, 20, 1))
    cases = [replace(plain, about=f"length {length}", passes=(length,)) for length in lengths]
    cases += [
        replace(plain, about=f"{heads} heads on {kv_heads}", heads=heads, kv_heads=kv_heads)
        for heads, kv_heads in groups
    ]
    cases += [replace(plain, about=f"head_dim {dim}", head_dim=dim) for dim in dims]
    cases += [
        replace(plain, about=f"window {window}, sinks {sinks}", window=window, sinks=sinks)
        for window, sinks in windows
    ]
    cases += [replace(plain, about=f"chunks {_said(passes)}", passes=passes) for passes in chunks]
    cases += [replace(plain, about=f"decode {_said(passes)}", passes=passes) for passes in decodes]
    ragged = replace(plain, begins=((0,), (5,), (60,)))
    cases += [
        replace(ragged, about="padded rows"),
        replace(ragged, about="padded rows, decode", passes=(80, 1, 1, 1)),
        replace(plain, about="packed rows", begins=((0, 3, 90), (0,))),
    ]
    for passes, said in (((150,), ""), ((40, 9, 1, 1), ", decode")):
        cases += [
            replace(plain, about=f"sink logits{said}", passes=passes, sink_logits=True),
            replace(plain, about=f"positions in the cache{said}", passes=passes, sink_query=True),
        ]
    return [*cases, replace(plain, about="softcap", softcap=20.0)]


def _said(passes: tuple[int, ...]) -> str:
    """``100+1x40`` for a hundred tokens, then forty times one."""
    said: list[str] = []
    begin = 0
    while begin < len(passes):
        end = begin
        while end < len(passes) and passes[end] == passes[begin]:
            end += 1
        times = end - begin
        said.append(str(passes[begin]) if times == 1 else f"{passes[begin]}x{times}")
        begin = end
    return "+".join(said)

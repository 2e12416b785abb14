"""Contexts of equal length, cut from a text; the document each begins in, and the bytes of its tokens."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from eval.errors import EvalError
from eval.stats import by_group
from eval.text import TextSource


@dataclass(frozen=True)
class Contexts:
    """Token ids and what is needed to count with them.

    Attributes:
        ids: ``[C, T]`` int64, BOS first where the tokenizer has one.
        documents: For each context the index of the document in which it begins.
        text_bytes: ``[C, T]`` int64, UTF-8 bytes of the text from the end of the token before to that of the
            token itself, 0 for BOS; None where the tokenizer does not say where its tokens stand.
    """

    ids: Tensor
    documents: list[int]
    text_bytes: Tensor | None

    @property
    def digest(self) -> str:
        """Of the token ids: samples of two checkpoints pair up where it is the same."""
        return hashlib.sha256(self.ids.numpy().tobytes()).hexdigest()

    def samples(self, values: Sequence[float]) -> list[float]:
        """One value per context as independent samples: joined by document, if there is more than one."""
        return by_group(values, self.documents) if len(set(self.documents)) > 1 else list(values)

    def counted(self, tokens: int) -> str:
        """What :meth:`samples` counts, each context having ``tokens`` that are scored."""
        contexts = f"contexts of {tokens} tokens"
        apart = len(set(self.documents))
        return (
            contexts if apart in (1, len(self.documents)) else f"documents, {len(self.documents)} {contexts}"
        )

    def warnings(self, what: str) -> list[str]:
        """What the standard errors cannot say."""
        if len(set(self.documents)) > 1:
            return []
        return [
            f"{what}: all contexts come from one document; the standard errors say how much its parts "
            "differ, not how much another document would"
        ]


def pack(
    text: TextSource,
    tokenizer: Any,
    bos: list[int],
    length: int,
    contexts: int,
    step: int | None = None,
    from_start: bool = False,
) -> Contexts:
    """Cut a text into contexts of exactly ``length`` tokens, each beginning with BOS if there is one.

    Args:
        bos: The BOS token's id, or nothing.
        length: Tokens of a context, BOS included.
        contexts: At most this many, from the start of the text; two at least, where more than one is wanted.
        step: Tokens of text from the beginning of one context to that of the next; a whole one if not given.
        from_start: One context from the beginning of each document that fills one. Otherwise documents are
            joined by blank lines and a context begins wherever its turn comes.

    Raises:
        EvalError: the text has less than two contexts (a standard error needs two), or not the one wanted.
    """
    body = length - len(bos)
    step = step or body
    stream: list[tuple[int, int, int]] = []
    rows: list[list[tuple[int, int, int]]] = []
    total = 0
    for number, document in enumerate(text.documents):
        tokens = [(*token, number) for token in _tokens(tokenizer, document + "\n\n")]
        total += len(tokens)
        if not from_start:
            stream += tokens
        elif len(tokens) >= body:
            rows.append(tokens[:body])
        if len(rows) == contexts or len(stream) >= body + step * (contexts - 1):
            break
    if not from_start:
        starts = range(0, len(stream) - body + 1, step)[:contexts]
        rows = [stream[start : start + body] for start in starts]
    if len(rows) < min(2, contexts):
        where = " that begin with a document" if from_start else ""
        raise EvalError(
            f"the text ({text.origin}) has {total} tokens, which is less than "
            f"{'one context' if contexts == 1 else 'two contexts'} of {length}{where}: give a longer text or "
            "shorter lengths"
        )
    table = torch.tensor(rows, dtype=torch.long)
    counted = bool(getattr(tokenizer, "is_fast", False))
    first = torch.tensor(bos, dtype=torch.long).expand(len(rows), len(bos))
    return Contexts(
        ids=torch.cat([first, table[..., 0]], dim=1),
        documents=table[:, 0, 2].tolist(),
        text_bytes=torch.cat([torch.zeros_like(first), table[..., 1]], dim=1) if counted else None,
    )


def _tokens(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    """Ids, each with its bytes; 0 bytes where the tokenizer has no offsets."""
    if not getattr(tokenizer, "is_fast", False):
        return [(token, 0) for token in tokenizer.encode(text, add_special_tokens=False)]
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    before = [0, *accumulate(len(character.encode()) for character in text)]
    # A character of several tokens has them all end behind it: the first of them takes its bytes.
    ends = [0, *accumulate((end for _, end in encoded["offset_mapping"]), max)]
    sizes = [before[end] - before[start] for start, end in pairwise(ends)]
    return list(zip(encoded["input_ids"], sizes, strict=True))

"""Training text that is made, not read; each document has a generator of its own and needs no other."""

import random
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from eval.errors import EvalError
from eval.retrieval import KINDS
from eval.retrieval.documents import DocumentMaker
from eval.text import read_text
from recipes.errors import RecipeError
from recipes.schema import RetrievalData, TinyData
from recipes.tiny.text import document, join
from recipes.uptrain.mixtures import Listed, Source


class _Retrieval(Sequence[str]):
    def __init__(self, data: RetrievalData, tokenizer: PreTrainedTokenizerBase):
        self.data = data
        try:
            # The maker leaves room for BOS, which packing puts before each row or document.
            bos = [tokenizer.bos_token_id or 0]
            self.maker = DocumentMaker(read_text(data.file), tokenizer, bos, data.digits)
        except EvalError as error:
            raise RecipeError(f"retrieval data: {error}") from None

    def __len__(self) -> int:
        return self.data.documents

    def __getitem__(self, number: Any) -> Any:
        data, rng = self.data, random.Random(f"{self.data.seed} {number}")
        kind = KINDS[data.kinds[number % len(data.kinds)]]
        try:
            made = self.maker.make(kind, "depth", rng.choice(data.lengths), rng.random(), rng)
        except EvalError as error:
            raise RecipeError(f"retrieval data: {error}") from None
        return made.text + made.answer


class _Tiny(Sequence[str]):
    def __init__(self, data: TinyData, tokenizer: PreTrainedTokenizerBase):
        self.data, self.tokenizer = data, tokenizer

    def __len__(self) -> int:
        return self.data.documents

    def __getitem__(self, number: Any) -> Any:
        data, rng = self.data, random.Random(f"{self.data.seed} {number}")
        needles = data.needles if rng.random() < data.needle_share else 0
        try:
            pieces = document(rng, self.tokenizer, data.tokens, needles, data.needles)  # type: ignore[arg-type]
        except ValueError as error:
            raise RecipeError(f"tiny data: {error}") from None
        return join(pieces)


def from_retrieval(data: RetrievalData, tokenizer: PreTrainedTokenizerBase) -> Source:
    """Documents of ``eval.retrieval``.

    Raises:
        RecipeError: the text cannot be read, or a document is too short for its facts.
    """
    return Listed(_Retrieval(data, tokenizer))


def from_tiny(data: TinyData, tokenizer: PreTrainedTokenizerBase) -> Source:
    """Documents of ``recipes/tiny``."""
    return Listed(_Tiny(data, tokenizer))

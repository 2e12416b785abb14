"""Documents into training rows of one length."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from recipes.errors import RecipeError

IGNORED = -100
SEEN = 0.02
"""Share of a document's logits that changes with another document, from which on the two see each other."""
Row = dict[str, Tensor]


class Packer:
    """Rows that hold whole documents where they fit.

    A document begins with BOS (``joined``: a row does) and ends with EOS; one longer than a row goes on in
    the next. The end of a row that the next document would not fit in is padding.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, apart: bool):
        """Pack nothing yet.

        Args:
            tokenizer: The student's.
            apart: Whether the documents of a row must not see each other.
        """
        self.tokenizer, self.apart = tokenizer, apart
        self._bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        self._eos = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        self._pieces: list[list[int]] = []
        self._waiting: list[list[int]] = []

    def row(self, documents: Iterator[str], length: int) -> Row:
        """The next row.

        Args:
            documents: Is read no further than the row needs.
            length: ``T``, tokens of the row.

        Returns:
            ``input_ids``, ``labels`` and ``attention_mask`` (1 where there is a token), and ``position_ids``
            when documents are apart; ``[T]`` int64. Labels are -100 at padding and, when documents are apart,
            at the first token of each: nothing before it tells what it is.

        Raises:
            StopIteration: the documents have ended before the row was full.
        """
        whole = length - len(self._bos)
        if self._room(length) < 0:
            # It was begun when rows were longer.
            self._waiting, self._pieces = self._pieces + self._waiting, []
        while True:
            if not self._waiting:
                tokens = self._encode(next(documents))
                self._waiting = [tokens] if tokens else []
                continue
            room, document = self._room(length), self._waiting[0]
            # A document that fits a row alone is worth keeping whole: what it asks may be at its beginning.
            if self._pieces and (room <= 0 or room < len(document) <= whole):
                return self._take(length)
            self._pieces.append(document[:room])
            self._waiting[:1] = [document[room:]] if document[room:] else []
            if self._room(length) <= 0:
                return self._take(length)

    def state(self) -> dict[str, Any]:
        """Tokens that were read and are not yet in a row, as JSON."""
        return {"pieces": list(self._pieces), "waiting": list(self._waiting)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from an earlier ``state``."""
        self._pieces, self._waiting = list(state["pieces"]), list(state["waiting"])

    def _encode(self, text: str) -> list[int]:
        tokens: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return tokens + self._eos

    def _room(self, length: int) -> int:
        """Tokens of another piece that fit, without its BOS."""
        starts = len(self._pieces) + 1 if self.apart else 1
        return length - len(self._bos) * starts - sum(map(len, self._pieces))

    def _take(self, length: int) -> Row:
        pieces, self._pieces = self._pieces, []
        if not self.apart:
            pieces = [[token for piece in pieces for token in piece]]
        pieces = [self._bos + piece for piece in pieces]
        tokens = [token for piece in pieces for token in piece]
        padding = length - len(tokens)
        filler = self.tokenizer.pad_token_id
        if filler is None:
            filler = self.tokenizer.eos_token_id or 0
        row = {
            "input_ids": torch.tensor(tokens + [filler] * padding),
            "attention_mask": torch.tensor([1] * len(tokens) + [0] * padding),
            "labels": torch.tensor(tokens + [IGNORED] * padding),
        }
        if self.apart:
            sizes = [len(piece) for piece in pieces] + ([padding] if padding else [])
            row["position_ids"] = torch.cat([torch.arange(size) for size in sizes])
            row["labels"][row["position_ids"] == 0] = IGNORED
        return row


def check_apart(model: PreTrainedModel, device: torch.device) -> None:
    """See in two passes of two documents whether a model keeps them apart.

    Args:
        model: Any causal language model.
        device: Where it computes.

    Raises:
        RecipeError: what the first document says changes what comes of the second.
    """
    positions = torch.tensor([[0, 1, 0, 1]] * 2, device=device)
    training = model.training
    model.eval()
    said = []
    for begin in (1, 3):
        tokens = torch.tensor([[begin, begin + 1, 5, 6]] * 2, device=device)
        with torch.no_grad():
            said.append(model(input_ids=tokens, position_ids=positions, use_cache=False).logits[:, 2:])
    model.train(training)
    # Not exactly: 8-bit products round by what is largest in the whole pass.
    if (said[0] - said[1]).float().norm() > SEEN * said[0].float().norm():
        raise RecipeError(
            f"packing='apart': {type(model).__name__} does not keep documents apart by position_ids; use "
            "packing: joined"
        )

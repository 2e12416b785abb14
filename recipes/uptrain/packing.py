"""Documents into training rows of one length."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerBase

IGNORED = -100


class PackedRows(IterableDataset[dict[str, Tensor]]):
    """Rows of ``length`` tokens that begin with BOS and hold whole documents where they fit.

    Documents in a row are parted by EOS and can see each other; one longer than a row goes on in the next.
    The end of a row that the next document would not fit in is padding.
    """

    def __init__(
        self, documents: Callable[[], Iterable[str]], tokenizer: PreTrainedTokenizerBase, length: int
    ):
        """Pack lazily, without end.

        Args:
            documents: Gives the text; called again whenever it has been read to its end.
            tokenizer: The student's.
            length: Tokens of a row.
        """
        self.documents = documents
        self.tokenizer = tokenizer
        self.length = length

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        # The Trainer skips what an earlier run has read exactly, but knows no epochs of a stream.
        while True:
            count = 0
            for row in self.epoch():
                count += 1
                yield row
            if not count:
                return

    def epoch(self) -> Iterator[dict[str, Tensor]]:
        """The rows of the whole text, once."""
        bos = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        eos = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        room = self.length - len(bos)
        row: list[int] = []
        for text in self.documents():
            tokens = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] + eos
            # A document that fits a row alone is worth keeping whole: what it asks may be at its beginning.
            if row and len(row) + len(tokens) > room and len(tokens) <= room:
                yield self._row(bos + row)
                row = []
            row += tokens
            while len(row) >= room:
                yield self._row(bos + row[:room])
                row = row[room:]
        if row:
            yield self._row(bos + row)

    def _row(self, tokens: list[int]) -> dict[str, Tensor]:
        padding = self.length - len(tokens)
        filler = self.tokenizer.pad_token_id
        if filler is None:
            filler = self.tokenizer.eos_token_id or 0
        return {
            "input_ids": torch.tensor(tokens + [filler] * padding),
            "attention_mask": torch.tensor([1] * len(tokens) + [0] * padding),
            "labels": torch.tensor(tokens + [IGNORED] * padding),
        }

"""What the layers of every compressed cache share: their tensors by part, and operations on the batch."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from patches.cache.stored import Stored, StoredTokens
from patches.policy import PolicyError


class CompressedLayer(CacheLayerMixin):
    """A layer that keeps tokens in a form of its own and hands out ``StoredTokens``.

    A token is known by its position in its row, so that a padded row keeps what it would keep alone.

    Attributes:
        seen: Columns so far, padding included.
        parts: What it holds, by name, the batch first: ``[B, ...]``.
    """

    is_sliding = False
    is_compileable = False
    is_croppable = False

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.parts: dict[str, Tensor] = {}

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Note the device and dtype of the first tokens, ``[B, K, T, D]``, and make room for them."""
        self.dtype, self.device = key_states.dtype, key_states.device
        # A cache that was first filled under inference mode must still be writable outside of it.
        with torch.inference_mode(False):
            self.allocate(key_states, value_states)
        self.is_initialized = True

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        *args: Any,
        starts: Tensor | None = None,
        begins: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Store the new tokens and return all of them, to be read by attention.

        Args:
            key_states: ``[B, K, T, D]``, rotated.
            value_states: ``[B, K, T, D]``.
            args: Not used.
            starts: ``[B]``, the first real column of each row; None when no row is padded.
            begins: The same on the host.
            kwargs: Not used.

        Returns:
            Keys and values ``[B, K, past + T, D]``.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        past, tokens = self.seen, key_states.shape[2]
        if begins is None:
            begins = (0,) * key_states.shape[0] if starts is None else tuple(starts.tolist())
        first = [past - begin for begin in begins]
        self.seen += tokens
        stored = self.take_in((key_states.detach(), value_states.detach()), first, starts, past)
        return StoredTokens(stored), StoredTokens(stored)

    @abstractmethod
    def allocate(self, key_states: Tensor, value_states: Tensor) -> None:
        """Fill ``parts`` for the batch, heads, dtype and device of the first tokens, ``[B, K, T, D]``."""

    @abstractmethod
    def take_in(
        self, new: tuple[Tensor, Tensor], first: list[int], starts: Tensor | None, past: int
    ) -> Stored:
        """Store the tokens of a pass and say what its queries may read.

        Args:
            new: Keys and values ``[B, K, T, D]``, constants to autograd.
            first: Position of each row's first new token; negative where it is padding.
            starts: ``[B]`` or None, for what is returned.
            past: Columns before the pass, for what is returned.
        """

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it holds."""
        return sum(self.nbytes_by_part().values())

    def nbytes_by_part(self) -> dict[str, int]:
        """The same, by what is stored."""
        return {name: part.untyped_storage().nbytes() for name, part in self.parts.items()}

    def reset(self) -> None:
        """Forget everything and give up the memory."""
        self.seen, self.parts, self.is_initialized = 0, {}, False

    def check_kept(self, kept: int, seen: int) -> None:
        """Refuse to go back to ``kept`` of ``seen`` tokens where the policy cannot.

        Raises:
            PolicyError: they have been compressed.
        """
        if kept < seen:
            raise PolicyError(
                f"cannot go back to {kept} of {seen} tokens: {type(self).__name__} has compressed them"
            )

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens, where the policy can; see ``check_kept``.

        Args:
            tokens_to_remove: How many, as a negative number.
        """
        self.check_kept(self.seen - abs(tokens_to_remove), self.seen)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let row ``i`` become what row ``beam_idx[i]`` was."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row ``repeats`` times."""
        self.parts = {name: part.repeat_interleave(repeats, dim=0) for name, part in self.parts.items()}

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only the rows ``indices``."""
        self.parts = {name: part[indices.to(part.device)] for name, part in self.parts.items()}

    def get_seq_length(self) -> int:
        """Tokens seen, not tokens kept."""
        return self.seen

    def get_max_length(self) -> int:
        """-1: any length may pass through."""
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """As if every token were kept; the mask does not come from here."""
        return self.seen + query_length, 0

"""What layers with a budget share: so many slots in every KV head, allocated at once."""

from typing import ClassVar

import torch
from torch import Tensor

from patches.cache.budget import Budget
from patches.cache.compressed import CompressedLayer
from patches.cache.policies.policy import Place


class SlottedLayer(CompressedLayer):
    """A layer of ``N`` slots per row and KV head, as many as its budget has room for.

    Attributes:
        noted: What a slot notes beside its key and value, by part: the number of an empty one and the dtype.
        budget: What it may keep.
        place: Where it stands.
    """

    noted: ClassVar[dict[str, tuple[int, torch.dtype]]]

    def __init__(self, budget: Budget, place: Place):
        """Make an empty layer.

        Args:
            budget: What it may keep.
            place: Where it stands.
        """
        super().__init__()
        self.budget = budget
        self.place = place

    @classmethod
    def noted_bytes(cls) -> int:
        """Of a slot, beside its key and value."""
        return sum(dtype.itemsize for _, dtype in cls.noted.values())

    @property
    def slots(self) -> int:
        """``N``, of each KV head."""
        return self.parts["keys"].shape[2]

    def allocate(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make all slots, empty."""
        batch, heads, _, dim = key_states.shape
        slot_bytes = 2 * dim * key_states.element_size() + self.noted_bytes()
        shape = (batch, heads, self.budget.slots(self.place, heads, slot_bytes))
        self.parts = {
            "keys": key_states.new_zeros(*shape, dim),
            "values": value_states.new_zeros(*shape, dim),
        }
        for name, (empty, dtype) in self.noted.items():
            self.parts[name] = torch.full(shape, empty, dtype=dtype, device=self.device)

"""How much a layer may keep of a text: a number of tokens, or bytes shared out among layers."""

from dataclasses import dataclass

from patches.cache.policies.policy import Place, Tokens, check_count, read_bytes
from patches.policy import PolicyError


@dataclass(frozen=True)
class Budget:
    """The settings of every policy with a budget.

    Attributes:
        budget: What a KV head keeps, in tokens; or bytes with a unit, such as ``64MiB``, of one sequence in
            all layers alike.
        sinks: First tokens of a row, which stay.
        recent: Latest tokens of a row, which stay until they are older.
    """

    budget: int | str = 1024
    sinks: int = 4
    recent: int = 64

    def __post_init__(self) -> None:
        """Check what can be checked without a model.

        Raises:
            PolicyError: a setting is out of range.
        """
        check_count("sinks", self.sinks, 0)
        check_count("recent", self.recent, 1)
        if isinstance(self.budget, str):
            self._bytes()
        else:
            check_count("budget", self.budget, 1)
            self._check_room(self.budget, "")

    def slots(self, place: Place, kv_heads: int, slot_bytes: int) -> int:
        """Tokens that each KV head of a layer keeps.

        Args:
            place: Where the layer stands.
            kv_heads: ``K`` of the layer.
            slot_bytes: Bytes of one token of one KV head, with everything that is noted about it.

        Raises:
            PolicyError: the bytes have no room for the tokens that must stay.
        """
        if isinstance(self.budget, int):
            return self.budget
        slots = self._bytes() // (place.alike * kv_heads * slot_bytes)
        self._check_room(
            slots, f", which is {slots} tokens in each of {kv_heads} KV heads of {place.alike} layers"
        )
        return slots

    def nbytes(self, tokens: Tokens, noted_bytes: int) -> int:
        """What one layer holds for one sequence, from the first token on.

        Args:
            tokens: Shapes and place of the layer.
            noted_bytes: Of a slot, beside its key and value.
        """
        slot_bytes = 2 * tokens.head_dim * tokens.element_bytes + noted_bytes
        return self.slots(tokens.place, tokens.kv_heads, slot_bytes) * tokens.kv_heads * slot_bytes

    @property
    def least(self) -> int:
        """Tokens that must fit: those that stay, and one to choose."""
        return self.sinks + self.recent + 1

    def _check_room(self, slots: int, meaning: str) -> None:
        if slots < self.least:
            raise PolicyError(
                f"budget={self.budget!r}{meaning}: it must hold sinks={self.sinks}, recent={self.recent} and "
                f"one more, at least {self.least} tokens"
            )

    def _bytes(self) -> int:
        return read_bytes("budget", self.budget, "a number of tokens, or bytes")

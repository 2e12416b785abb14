"""The configs of models whose architecture has no key for KV heads."""

from typing import Any, ClassVar

from patches.config import OwnCodeConfigMixin
from patches.policy import PolicyError


class FewerHeadsConfigMixin:
    """A config with ``num_key_value_heads`` for an architecture that has no such key.

    Code that ignores ``model_type`` cannot run a checkpoint with fewer heads wrongly: its projections do not
    have the shapes of the original architecture.
    """

    num_key_value_heads: Any
    model_type: ClassVar[str]
    num_attention_heads: int

    def __post_init__(self, **kwargs: Any) -> None:
        self.num_key_value_heads = kwargs.pop("num_key_value_heads", None)
        super().__post_init__(**kwargs)  # type: ignore[misc]

    @property
    def kv_groups(self) -> int:
        """``G``, query heads of one KV head.

        Raises:
            PolicyError: ``num_key_value_heads`` is missing or does not divide the heads.
        """
        kept, heads = self.num_key_value_heads, self.num_attention_heads
        allowed = [count for count in range(1, heads + 1) if heads % count == 0]
        if type(kept) is not int or kept not in allowed:
            raise PolicyError(
                f"num_key_value_heads={kept!r} must divide the {heads} heads of this {self.model_type} model "
                f"(one of {', '.join(map(str, allowed))})"
            )
        return heads // kept


class GroupedConfigMixin(FewerHeadsConfigMixin, OwnCodeConfigMixin):
    """Of a model that attends as transformers does, to fewer KV heads.

    Attributes:
        needs: Options of the architecture, and the one value each that leaves a KV head per query head.
    """

    attention_window: Any
    is_heterogeneous: bool
    needs: ClassVar[dict[str, bool]] = {}

    def __post_init__(self, **kwargs: Any) -> None:
        self.attention_window = kwargs.pop("attention_window", None)
        super().__post_init__(**kwargs)

    def check_grouping(self) -> None:
        """Refuse what a grouped model cannot do.

        Raises:
            PolicyError: the number of KV heads is wrong or differs by layer, there is a window, or an option
                of the architecture that changes its attention is on.
        """
        if self.attention_window is not None:
            raise PolicyError(
                f"attention_window={self.attention_window!r}: {self.model_type} has fewer KV heads but no "
                "window yet, and would attend densely; remove the key"
            )
        if self.is_heterogeneous:
            raise PolicyError(
                f"per_layer_config: the layers of a {self.model_type} model cannot differ; remove the key"
            )
        for name, value in self.needs.items():
            if getattr(self, name) != value:
                raise PolicyError(
                    f"{name}={getattr(self, name)!r} must be {value} in a {self.model_type} model"
                )
        self.kv_groups  # noqa: B018 - reading it checks it

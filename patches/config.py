"""The config of a windowed model."""

from typing import Any

from transformers import PreTrainedConfig

from patches.attention.backends import AUTO
from patches.cache.policies import KvCache
from patches.copies import remote
from patches.heads import check_per_layer
from patches.policy import PolicyError, WindowPolicy

GLOBAL, WINDOWED, NATIVE_WINDOW = "full_attention", "sinks_and_window", "sliding_attention"
COMPRESSED = "full_attention_compressed"


class OwnCodeConfigMixin:
    """A config of a class of ours, which names code files only where it came from some."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON; a model loaded by ``import patches`` has no code files to save, so it names none."""
        entry: dict[str, Any] = super().to_dict()  # type: ignore[misc]
        if not remote(type(self).__module__):
            entry.pop("auto_map", None)
        return entry


class WindowedConfigMixin(OwnCodeConfigMixin):
    """A config with an ``attention_window``, a number of KV heads for each layer, a ``kv_cache``, or several.

    On disk ``layer_types`` names a kind of layer that transformers does not have, so that code which ignores
    ``model_type`` (``LlamaForCausalLM.from_pretrained`` on a windowed folder) is refused instead of running
    densely. In memory it names what each layer was trained as, on which its positions depend in some
    families; ``native_layer_types`` keeps that on disk where some of them slide.
    """

    attention_window: Any
    kv_cache: Any
    _attn_implementation: Any
    num_hidden_layers: Any
    num_attention_heads: Any
    is_heterogeneous: bool
    # Every layer is written, so that heads which happen to be equal everywhere still read as set by layer.
    serialize_explicit_per_layer_config = True

    def __post_init__(self, **kwargs: Any) -> None:
        self.attention_window = kwargs.pop("attention_window", None)
        self.kv_cache = kwargs.pop("kv_cache", None)
        # A wrong entry is said here, not when the first text is generated.
        KvCache.from_config(self.kv_cache)
        kwargs.pop("layer_types", None)
        native = kwargs.pop("native_layer_types", None)
        if "layer_types" in type(self).__dataclass_fields__:  # type: ignore[attr-defined]
            setattr(self, "layer_types", native)  # noqa: B010 - a field of some families only
        super().__post_init__(**kwargs)  # type: ignore[misc]
        if self._attn_implementation is None:
            # A dense class that is given this config then meets our attention, which refuses to serve it.
            self._attn_implementation = AUTO

    def to_dict(self) -> dict[str, Any]:
        """As JSON, with the ``layer_types`` that only windowed classes read."""
        entry = super().to_dict()
        native = entry.pop("layer_types", None)
        if native is not None and NATIVE_WINDOW in native:
            entry["native_layer_types"] = native
        if self.attention_window is not None:
            policy = self.window_policy
            entry["layer_types"] = [
                GLOBAL if policy.window_of(layer) is None else WINDOWED
                for layer in range(self.num_hidden_layers)
            ]
        elif self.kv_cache is not None:
            entry["layer_types"] = [COMPRESSED] * self.num_hidden_layers
        if self.kv_cache is None:
            entry.pop("kv_cache", None)
        return entry

    @property
    def per_layer_config(self) -> Any:
        """The config of every layer, in which ``num_key_value_heads`` is its own."""
        return super().per_layer_config  # type: ignore[misc]

    @per_layer_config.setter
    def per_layer_config(self, entry: Any) -> None:
        if entry is not None:
            entry = check_per_layer(entry, self.num_hidden_layers, self.num_attention_heads)
        PreTrainedConfig.per_layer_config.fset(self, entry)  # type: ignore[attr-defined]

    @property
    def may_lack_a_window(self) -> bool:
        """Whether there is another reason to be of a class of ours: heads by layer, or a ``kv_cache``."""
        return self.is_heterogeneous or self.kv_cache is not None

    @property
    def window_policy(self) -> WindowPolicy:
        """The checked ``attention_window``; no layer has a window where there need not be one.

        Raises:
            PolicyError: it is missing or wrong, or lets a layer see farther than it was trained to.
        """
        if self.attention_window is None and self.may_lack_a_window:
            native = getattr(self, "sliding_window", None)
            # Qwen2 with experts says 0 for none.
            if native:
                raise PolicyError(
                    f"sliding_window={native!r} is not what a windowed model attends by: say it in "
                    "attention_window, or set it to null for full attention"
                )
            return WindowPolicy.without_window(self.num_hidden_layers)
        policy = WindowPolicy.from_config(self.attention_window, self.num_hidden_layers)
        self._check_reach(policy)
        return policy

    def _check_reach(self, policy: WindowPolicy) -> None:
        """Refuse a policy that widens a layer which slides in the architecture itself."""
        reach, kinds = getattr(self, "sliding_window", None), getattr(self, "layer_types", None) or ()
        for layer, kind in enumerate(kinds):
            if kind != NATIVE_WINDOW or reach is None:
                continue
            size = policy.window_of(layer)
            if size is None or size > reach:
                wanted = "global" if size is None else f"given a window of {size} tokens"
                raise PolicyError(
                    f"attention_window: layer {layer} slides over {reach} tokens in this architecture and "
                    f"cannot be {wanted}; it never saw farther"
                )

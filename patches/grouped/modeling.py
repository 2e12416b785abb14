"""What turns a model of transformers into one with fewer KV heads."""

import copy
from typing import Any

from transformers import PreTrainedConfig
from transformers.generation import GenerationConfig, GenerationMode

from patches.grouped import packed
from patches.grouped.attention import GroupedAttention
from patches.grouped.cache import GroupedCache
from patches.names import StockNames
from patches.policy import PolicyError

# Here, because every grouped class imports this module, also in a folder that carries only some of them.
packed.register()


class GroupedLayers(StockNames):
    """A decoder, with or without its head, whose attention modules are grouped ones."""

    attention_class: type[GroupedAttention]
    config: Any

    def __init__(self, config: PreTrainedConfig):
        """Build the model of transformers, then put grouped attention into its layers."""
        super().__init__(config)  # type: ignore[call-arg]
        for parent in list(self.modules()):  # type: ignore[attr-defined]
            for name, child in list(parent.named_children()):
                if type(child) in self.attention_class.__bases__:
                    setattr(parent, name, self.attention_class(self.config, child.layer_idx))
        self.post_init()  # type: ignore[attr-defined]


class GroupedMixin(GroupedLayers):
    """The same, attending as transformers does, through any cache of transformers."""

    def __init__(self, config: PreTrainedConfig):
        """Check the config, then build the model.

        Args:
            config: A grouped config, which is copied.

        Raises:
            PolicyError: it has no valid number of KV heads, or asks for what grouped models do not have.
        """
        config.check_grouping()
        # Models made from one config would share it, attention implementation included.
        super().__init__(copy.deepcopy(config))

    def get_correct_attn_implementation(
        self, requested_attention: str | None, *args: Any, **kwargs: Any
    ) -> str:
        """As transformers chooses, with our ``sdpa`` in place of its own wherever attention can be chosen."""
        chosen: str = super().get_correct_attn_implementation(requested_attention, *args, **kwargs)  # type: ignore[misc]
        return packed.PACKED if chosen == "sdpa" and self._supports_attention_backend else chosen  # type: ignore[attr-defined]

    def init_continuous_batching(self, *_: Any, **__: Any) -> Any:
        """Refuse the paged cache of transformers, which attention fills past the cache that it is given.

        Raises:
            PolicyError: always.
        """
        raise PolicyError(
            f"continuous batching would store all {self.config.num_attention_heads} heads instead of "
            f"{self.config.num_key_value_heads}; use generate, which takes padded batches"
        )

    def _prepare_cache_for_generation(
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        generation_mode: GenerationMode,
        batch_size: int,
        max_cache_length: int,
    ) -> Any:
        """Give ``generate`` a cache that counts its bytes, unless it has one or is to have a special one."""
        asked = generation_config.cache_implementation not in (None, "dynamic")
        rolled_back = generation_config.is_assistant
        given = model_kwargs.get("past_key_values") is not None
        if asked or rolled_back or given or generation_config.use_cache is False:
            super()._prepare_cache_for_generation(  # type: ignore[misc]
                generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
            )
        else:
            model_kwargs["past_key_values"] = GroupedCache(config=self.config)

"""What ``generate`` does differently for a windowed model: its cache, its mask, and what it compiles."""

from typing import Any

from torch import Tensor
from transformers.generation import GenerationConfig, GenerationMode

from patches.cache.choice import cache_for
from patches.policy import PolicyError, WindowPolicy
from patches.rows import check_cache

ROLLBACK_MODES = (GenerationMode.ASSISTED_GENERATION,)


class WindowedGenerationMixin:
    """The bounded cache for ``generate``, without the user doing anything."""

    config: Any

    def _prepare_cache_for_generation(
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        generation_mode: GenerationMode,
        batch_size: int,
        max_cache_length: int,
    ) -> Any:
        """Give ``generate`` the bounded cache, or say why what it was asked for cannot be.

        Raises:
            PolicyError: a cache of transformers was asked for, or a generation mode that takes tokens back.
        """
        policy: WindowPolicy = self.check_policy_in_force()  # type: ignore[attr-defined]
        asked = generation_config.cache_implementation
        rolled_back = generation_mode in ROLLBACK_MODES or generation_config.is_assistant
        if rolled_back and policy.size is not None:
            raise PolicyError(
                "assisted generation takes rejected tokens back, which a ring that overwrites its oldest "
                "tokens cannot; generate without an assistant"
            )
        given = model_kwargs.get("past_key_values")
        if given is not None and asked is not None:
            raise PolicyError(
                f"cache_implementation={asked!r} would replace the cache given as past_key_values; pass one"
            )
        if given is not None:
            check_cache(given).check_room(max_cache_length)
        elif generation_config.use_cache is not False:
            length = max(max_cache_length, getattr(generation_config, "max_cache_len", None) or 0)
            model_kwargs["past_key_values"] = cache_for(self.config, asked, length)

    def create_masks_for_generate(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        past_key_values: Any,
        **_: Any,
    ) -> Tensor | None:
        """What ``generate`` passes on as the mask with a static cache: the padding, while it is news.

        A mask that grows with every token would have to be compiled again with every token.

        Args:
            inputs_embeds: ``[B, T, 0]``, of the tokens that come next.
            attention_mask: ``[B, past + T]`` or None.
            past_key_values: A static ``WindowedCache``.
        """
        decodes = inputs_embeds.shape[1] == 1 and check_cache(past_key_values).knows_padding
        return None if decodes else attention_mask

    def init_continuous_batching(self, *_: Any, **__: Any) -> Any:
        """Refuse the paged cache of transformers, which keeps every token.

        Raises:
            PolicyError: always.
        """
        raise PolicyError(
            "continuous batching (cache_implementation='paged') keeps its own pages, without a window; use "
            "generate without it, which takes padded batches"
        )

    def get_compiled_call(self, compile_config: Any) -> Any:
        """As transformers compiles a decode step; passes of many tokens differ in shape and stay eager."""
        compiled = super().get_compiled_call(compile_config)  # type: ignore[misc]

        def call(**inputs: Any) -> Any:
            tokens = inputs["input_ids"] if inputs.get("inputs_embeds") is None else inputs["inputs_embeds"]
            return compiled(**inputs) if tokens.shape[1] == 1 else self(**inputs)  # type: ignore[operator]

        return call

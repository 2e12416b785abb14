"""What turns a model of transformers into its windowed one: mixins, and no copied ``forward``."""

import copy
from dataclasses import replace
from typing import Any, ClassVar, cast

from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache

from patches.attention import backends
from patches.cache.windowed import WindowedCache
from patches.frame import Step
from patches.generation import WindowedGenerationMixin
from patches.heads import all_alike, give_own_heads
from patches.names import StockNames
from patches.policy import PolicyError, WindowPolicy
from patches.rows import check_cache, find_documents, next_step
from patches.sink_logits import SinkLogits, give_sink_logits
from patches.turning import Turn, check_turning, turn_of

# Here, because every windowed class imports this module, also in a checkpoint that carries its own alone.
backends.register()


class WindowedMixin(StockNames):
    """Any windowed model: its attention implementation is one of ours, whatever name asks for it."""

    config: Any

    def __init__(self, config: PreTrainedConfig):
        with all_alike(config):
            super().__init__(config)  # type: ignore[call-arg]
        self.check_policy_in_force()

    def _check_and_adjust_attn_implementation(
        self, attn_implementation: str | None, *_: Any, **__: Any
    ) -> str:
        return backends.resolve(attn_implementation)

    def get_correct_attn_implementation(self, requested_attention: str | None, *_: Any, **__: Any) -> str:
        """Called by transformers wherever an implementation is chosen."""
        return backends.resolve(requested_attention)

    def _init_weights(self, module: nn.Module) -> None:
        """As the model of transformers, and the logits that it does not know."""
        super()._init_weights(module)  # type: ignore[misc]
        if isinstance(module, SinkLogits):
            module.initialize()

    def check_policy_in_force(self) -> WindowPolicy:
        """The policy of the config, once it is certain that attention obeys it.

        Raises:
            PolicyError: the window is missing, or something replaced the attention implementation.
        """
        name = self.config._attn_implementation
        if not backends.in_force(name):
            raise PolicyError(
                f"this checkpoint attends in a window, but its attention implementation is {name!r}, which "
                "would run densely; set it with model.set_attn_implementation('sdpa'), not in the config"
            )
        policy: WindowPolicy = self.config.window_policy
        return policy


class WindowedModelMixin(WindowedMixin):
    """The decoder without its head.

    Attributes:
        obstacle: Why the architecture cannot count the distance to sinks inside the cache; empty if it can.
        attention_name: What a layer calls its attention.
    """

    layers: Any
    obstacle: ClassVar[str] = ""
    attention_name: ClassVar[str] = "self_attn"

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        if self.config.window_policy.turns:
            check_turning(self)
        if self.config.is_heterogeneous:
            give_own_heads(self)
        if self.config.window_policy.sink_logits:
            give_sink_logits(self, self.config.window_policy)
        if self.config.is_heterogeneous or self.config.window_policy.sink_logits:
            self.post_init()  # type: ignore[attr-defined]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """As the model of transformers, with a bounded cache and a window in every attention call.

        Args:
            input_ids: ``[B, T]``.
            attention_mask: ``[B, past + T]``, zeros for padding: on the left, or on the right with no cache.
            position_ids: ``[B or 1, T]``, rising by one; where they restart at 0, another document begins,
                which sees nothing of those before it.
            past_key_values: A ``WindowedCache``.
            inputs_embeds: ``[B, T, E]`` in place of ``input_ids``.
            use_cache: Default: the config's, but off in training.
            kwargs: Passed on.

        Raises:
            PolicyError: the policy is not in force, or the inputs ask for what a window cannot give: another
                cache, a mask of their own, holes in a row, several documents in one row and a cache.
        """
        policy = self.check_policy_in_force()
        if kwargs.get("output_attentions") and self.config._attn_implementation != backends.PREFIX + "eager":
            raise PolicyError(
                "output_attentions needs attn_implementation='eager', which alone forms the weights"
            )
        inputs = cast(Tensor, input_ids if inputs_embeds is None else inputs_embeds)
        batch, tokens = inputs.shape[:2]
        documents = None
        if tokens > 1 and (past_key_values is None or not past_key_values.get_seq_length()):
            documents = find_documents(batch, tokens, position_ids, attention_mask, kwargs)
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training and documents is None  # type: ignore[attr-defined]
        if self._recomputes():
            if past_key_values is not None and past_key_values.get_seq_length():
                raise PolicyError(
                    "gradient checkpointing runs layers twice and cannot go on from a cache; drop one"
                )
            use_cache, past_key_values = False, None
        if documents is not None and (use_cache or past_key_values is not None):
            raise PolicyError("several documents in one row cannot be cached; give each its own row")
        if past_key_values is None and use_cache:
            past_key_values = WindowedCache(self.config)
        weighs = kwargs.get("output_attentions") and past_key_values is not None
        if weighs and not check_cache(past_key_values).kv_cache.plain:
            raise PolicyError("output_attentions needs kv_cache 'full': a compressed cache forms no weights")
        step = next_step(policy, tokens, attention_mask, past_key_values, inputs.device)
        step = replace(step, documents=documents)
        step = replace(step, turn=self._turn(step, tokens))
        if past_key_values is not None:
            cast(WindowedCache, past_key_values).open(step)
        if position_ids is None and step.on_device:
            # transformers would ask the cache for a length that only the device knows.
            position_ids = cast(Tensor, step.past).reshape(1, 1)
        outputs = super().forward(  # type: ignore[misc]
            input_ids=input_ids,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            window_step=step,
            **kwargs,
        )
        if past_key_values is not None:
            cast(WindowedCache, past_key_values).close(tokens)
        return outputs

    def _turn(self, step: Step, tokens: int) -> Turn | None:
        """What the sinks' distances need with ``positions: cache``."""
        policy = step.policy
        if policy is None or policy.size is None or not policy.turns:
            return None
        positions = step.positions(tokens, self.device)  # type: ignore[attr-defined]
        return turn_of(positions, self.rotary_emb.inv_freq, policy.size, policy.sinks)  # type: ignore[attr-defined]

    def _recomputes(self) -> bool:
        layers = self.layers
        return self.training and any(getattr(layer, "gradient_checkpointing", False) for layer in layers)  # type: ignore[attr-defined]


class WindowedForCausalLMMixin(WindowedGenerationMixin, WindowedMixin):
    """The decoder with its language modelling head, and ``generate``."""

    decoder_class: type
    base_model_prefix: str

    def __init__(self, config: PreTrainedConfig):
        # Models made from one config would share it, attention implementation included.
        super().__init__(copy.deepcopy(config))
        # transformers built its own decoder class here; the windowed one takes the same weights.
        setattr(self, self.base_model_prefix, self.decoder_class(self.config))
        self.post_init()  # type: ignore[attr-defined]

"""Every windowed class in one module, for a checkpoint's ``auto_map`` and for ``import patches``."""

from patches.families.llama import WindowedLlamaConfig, WindowedLlamaForCausalLM, WindowedLlamaModel
from patches.families.mistral import WindowedMistralConfig, WindowedMistralForCausalLM, WindowedMistralModel
from patches.families.qwen2 import WindowedQwen2Config, WindowedQwen2ForCausalLM, WindowedQwen2Model
from patches.families.qwen3 import WindowedQwen3Config, WindowedQwen3ForCausalLM, WindowedQwen3Model

FAMILIES = (
    (WindowedLlamaConfig, WindowedLlamaModel, WindowedLlamaForCausalLM),
    (WindowedMistralConfig, WindowedMistralModel, WindowedMistralForCausalLM),
    (WindowedQwen2Config, WindowedQwen2Model, WindowedQwen2ForCausalLM),
    (WindowedQwen3Config, WindowedQwen3Model, WindowedQwen3ForCausalLM),
)

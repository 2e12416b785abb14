"""Every windowed class in one module, for a checkpoint's ``auto_map`` and for ``import patches``."""

from patches.families.bloom import WindowedBloomConfig, WindowedBloomForCausalLM, WindowedBloomModel
from patches.families.falcon import WindowedFalconConfig, WindowedFalconForCausalLM, WindowedFalconModel
from patches.families.gpt2 import WindowedGPT2Config, WindowedGPT2ForCausalLM, WindowedGPT2Model
from patches.families.gpt_neox import WindowedGPTNeoXConfig, WindowedGPTNeoXForCausalLM, WindowedGPTNeoXModel
from patches.families.gptj import WindowedGPTJConfig, WindowedGPTJForCausalLM, WindowedGPTJModel
from patches.families.llama import WindowedLlamaConfig, WindowedLlamaForCausalLM, WindowedLlamaModel
from patches.families.mistral import WindowedMistralConfig, WindowedMistralForCausalLM, WindowedMistralModel
from patches.families.mpt import WindowedMptConfig, WindowedMptForCausalLM, WindowedMptModel
from patches.families.opt import WindowedOPTConfig, WindowedOPTForCausalLM, WindowedOPTModel
from patches.families.qwen2 import WindowedQwen2Config, WindowedQwen2ForCausalLM, WindowedQwen2Model
from patches.families.qwen3 import WindowedQwen3Config, WindowedQwen3ForCausalLM, WindowedQwen3Model

FAMILIES = (
    (WindowedLlamaConfig, WindowedLlamaModel, WindowedLlamaForCausalLM),
    (WindowedMistralConfig, WindowedMistralModel, WindowedMistralForCausalLM),
    (WindowedQwen2Config, WindowedQwen2Model, WindowedQwen2ForCausalLM),
    (WindowedQwen3Config, WindowedQwen3Model, WindowedQwen3ForCausalLM),
)

GROUPED_FAMILIES = (
    (WindowedGPTNeoXConfig, WindowedGPTNeoXModel, WindowedGPTNeoXForCausalLM),
    (WindowedGPT2Config, WindowedGPT2Model, WindowedGPT2ForCausalLM),
    (WindowedOPTConfig, WindowedOPTModel, WindowedOPTForCausalLM),
    (WindowedGPTJConfig, WindowedGPTJModel, WindowedGPTJForCausalLM),
    (WindowedFalconConfig, WindowedFalconModel, WindowedFalconForCausalLM),
    (WindowedBloomConfig, WindowedBloomModel, WindowedBloomForCausalLM),
    (WindowedMptConfig, WindowedMptModel, WindowedMptForCausalLM),
)

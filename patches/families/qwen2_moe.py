"""Qwen2 with experts and a window: classes that auto classes find by ``windowed_qwen2_moe``."""

from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM, Qwen2MoeModel

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedQwen2MoeConfig(WindowedConfigMixin, Qwen2MoeConfig):
    model_type = "windowed_qwen2_moe"


class WindowedQwen2MoeModel(WindowedModelMixin, Qwen2MoeModel):
    config_class = WindowedQwen2MoeConfig


class WindowedQwen2MoeForCausalLM(WindowedForCausalLMMixin, Qwen2MoeForCausalLM):
    config_class = WindowedQwen2MoeConfig
    decoder_class = WindowedQwen2MoeModel

"""Qwen3 with experts and a window: classes that auto classes find by ``windowed_qwen3_moe``."""

from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM, Qwen3MoeModel

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedQwen3MoeConfig(WindowedConfigMixin, Qwen3MoeConfig):
    model_type = "windowed_qwen3_moe"


class WindowedQwen3MoeModel(WindowedModelMixin, Qwen3MoeModel):
    config_class = WindowedQwen3MoeConfig


class WindowedQwen3MoeForCausalLM(WindowedForCausalLMMixin, Qwen3MoeForCausalLM):
    config_class = WindowedQwen3MoeConfig
    decoder_class = WindowedQwen3MoeModel

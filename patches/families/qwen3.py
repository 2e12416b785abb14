"""Qwen3 with a window: classes that transformers' auto classes find by ``windowed_qwen3``."""

from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedQwen3Config(WindowedConfigMixin, Qwen3Config):
    model_type = "windowed_qwen3"


class WindowedQwen3Model(WindowedModelMixin, Qwen3Model):
    config_class = WindowedQwen3Config


class WindowedQwen3ForCausalLM(WindowedForCausalLMMixin, Qwen3ForCausalLM):
    config_class = WindowedQwen3Config
    decoder_class = WindowedQwen3Model

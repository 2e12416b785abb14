"""Qwen2 with a window: classes that transformers' auto classes find by ``windowed_qwen2``."""

from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Model

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedQwen2Config(WindowedConfigMixin, Qwen2Config):
    model_type = "windowed_qwen2"


class WindowedQwen2Model(WindowedModelMixin, Qwen2Model):
    config_class = WindowedQwen2Config


class WindowedQwen2ForCausalLM(WindowedForCausalLMMixin, Qwen2ForCausalLM):
    config_class = WindowedQwen2Config
    decoder_class = WindowedQwen2Model

"""Gemma 2 with a window: classes that transformers' auto classes find by ``windowed_gemma2``."""

from transformers import Gemma2Config, Gemma2ForCausalLM, Gemma2Model

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedGemma2Config(WindowedConfigMixin, Gemma2Config):
    model_type = "windowed_gemma2"


class WindowedGemma2Model(WindowedModelMixin, Gemma2Model):
    config_class = WindowedGemma2Config


class WindowedGemma2ForCausalLM(WindowedForCausalLMMixin, Gemma2ForCausalLM):
    config_class = WindowedGemma2Config
    decoder_class = WindowedGemma2Model

"""Gemma with a window: classes that transformers' auto classes find by ``windowed_gemma``."""

from transformers import GemmaConfig, GemmaForCausalLM, GemmaModel

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedGemmaConfig(WindowedConfigMixin, GemmaConfig):
    model_type = "windowed_gemma"


class WindowedGemmaModel(WindowedModelMixin, GemmaModel):
    config_class = WindowedGemmaConfig


class WindowedGemmaForCausalLM(WindowedForCausalLMMixin, GemmaForCausalLM):
    config_class = WindowedGemmaConfig
    decoder_class = WindowedGemmaModel

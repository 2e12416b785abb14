"""Mistral with a window: classes that transformers' auto classes find by ``windowed_mistral``."""

from transformers import MistralConfig, MistralForCausalLM, MistralModel

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedMistralConfig(WindowedConfigMixin, MistralConfig):
    model_type = "windowed_mistral"


class WindowedMistralModel(WindowedModelMixin, MistralModel):
    config_class = WindowedMistralConfig


class WindowedMistralForCausalLM(WindowedForCausalLMMixin, MistralForCausalLM):
    config_class = WindowedMistralConfig
    decoder_class = WindowedMistralModel

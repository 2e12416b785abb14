"""Ministral with a window: classes that transformers' auto classes find by ``windowed_ministral``."""

from transformers import MinistralConfig, MinistralForCausalLM, MinistralModel

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedMinistralConfig(WindowedConfigMixin, MinistralConfig):
    model_type = "windowed_ministral"


class WindowedMinistralModel(WindowedModelMixin, MinistralModel):
    config_class = WindowedMinistralConfig


class WindowedMinistralForCausalLM(WindowedForCausalLMMixin, MinistralForCausalLM):
    config_class = WindowedMinistralConfig
    decoder_class = WindowedMinistralModel

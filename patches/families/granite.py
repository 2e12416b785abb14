"""Granite with a window: classes that transformers' auto classes find by ``windowed_granite``."""

from transformers import GraniteConfig, GraniteForCausalLM, GraniteModel

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedGraniteConfig(WindowedConfigMixin, GraniteConfig):
    model_type = "windowed_granite"


class WindowedGraniteModel(WindowedModelMixin, GraniteModel):
    config_class = WindowedGraniteConfig


class WindowedGraniteForCausalLM(WindowedForCausalLMMixin, GraniteForCausalLM):
    config_class = WindowedGraniteConfig
    decoder_class = WindowedGraniteModel

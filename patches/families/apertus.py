"""Apertus with a window: classes that transformers' auto classes find by ``windowed_apertus``."""

from transformers import ApertusConfig, ApertusForCausalLM, ApertusModel

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedApertusConfig(WindowedConfigMixin, ApertusConfig):
    model_type = "windowed_apertus"


class WindowedApertusModel(WindowedModelMixin, ApertusModel):
    config_class = WindowedApertusConfig


class WindowedApertusForCausalLM(WindowedForCausalLMMixin, ApertusForCausalLM):
    config_class = WindowedApertusConfig
    decoder_class = WindowedApertusModel

"""Mixtral with a window: classes that transformers' auto classes find by ``windowed_mixtral``."""

from transformers import MixtralConfig, MixtralForCausalLM, MixtralModel

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedMixtralConfig(WindowedConfigMixin, MixtralConfig):
    model_type = "windowed_mixtral"


class WindowedMixtralModel(WindowedModelMixin, MixtralModel):
    config_class = WindowedMixtralConfig


class WindowedMixtralForCausalLM(WindowedForCausalLMMixin, MixtralForCausalLM):
    config_class = WindowedMixtralConfig
    decoder_class = WindowedMixtralModel

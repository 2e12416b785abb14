"""OLMo with a window: classes that transformers' auto classes find by ``windowed_olmo``."""

from transformers import OlmoConfig, OlmoForCausalLM, OlmoModel

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedOlmoConfig(WindowedConfigMixin, OlmoConfig):
    model_type = "windowed_olmo"


class WindowedOlmoModel(WindowedModelMixin, OlmoModel):
    config_class = WindowedOlmoConfig


class WindowedOlmoForCausalLM(WindowedForCausalLMMixin, OlmoForCausalLM):
    config_class = WindowedOlmoConfig
    decoder_class = WindowedOlmoModel

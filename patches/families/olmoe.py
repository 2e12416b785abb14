"""OLMoE with a window: classes that transformers' auto classes find by ``windowed_olmoe``."""

from transformers import OlmoeConfig, OlmoeForCausalLM, OlmoeModel

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedOlmoeConfig(WindowedConfigMixin, OlmoeConfig):
    model_type = "windowed_olmoe"


class WindowedOlmoeModel(WindowedModelMixin, OlmoeModel):
    config_class = WindowedOlmoeConfig


class WindowedOlmoeForCausalLM(WindowedForCausalLMMixin, OlmoeForCausalLM):
    config_class = WindowedOlmoeConfig
    decoder_class = WindowedOlmoeModel

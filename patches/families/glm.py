"""GLM-4 (``glm``) with a window: classes that transformers' auto classes find by ``windowed_glm``."""

from transformers import GlmConfig, GlmForCausalLM, GlmModel

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedGlmConfig(WindowedConfigMixin, GlmConfig):
    model_type = "windowed_glm"


class WindowedGlmModel(WindowedModelMixin, GlmModel):
    config_class = WindowedGlmConfig
    obstacle = "its rotary pairs are neighbours"


class WindowedGlmForCausalLM(WindowedForCausalLMMixin, GlmForCausalLM):
    config_class = WindowedGlmConfig
    decoder_class = WindowedGlmModel

"""GLM-4 (``glm4``) with a window: classes that transformers' auto classes find by ``windowed_glm4``."""

from transformers import Glm4Config, Glm4ForCausalLM, Glm4Model

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedGlm4Config(WindowedConfigMixin, Glm4Config):
    model_type = "windowed_glm4"


class WindowedGlm4Model(WindowedModelMixin, Glm4Model):
    config_class = WindowedGlm4Config
    obstacle = "its rotary pairs are neighbours"


class WindowedGlm4ForCausalLM(WindowedForCausalLMMixin, Glm4ForCausalLM):
    config_class = WindowedGlm4Config
    decoder_class = WindowedGlm4Model

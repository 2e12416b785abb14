"""Cohere 2 (Command R7B) with a window: classes that auto classes find by ``windowed_cohere2``."""

from transformers import Cohere2Config, Cohere2ForCausalLM, Cohere2Model

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedCohere2Config(WindowedConfigMixin, Cohere2Config):
    model_type = "windowed_cohere2"


class WindowedCohere2Model(WindowedModelMixin, Cohere2Model):
    config_class = WindowedCohere2Config
    obstacle = "each kind of its layers has positions of its own"


class WindowedCohere2ForCausalLM(WindowedForCausalLMMixin, Cohere2ForCausalLM):
    config_class = WindowedCohere2Config
    decoder_class = WindowedCohere2Model

"""OLMo 2 with a window: classes that transformers' auto classes find by ``windowed_olmo2``."""

from transformers import Olmo2Config, Olmo2ForCausalLM, Olmo2Model

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedOlmo2Config(WindowedConfigMixin, Olmo2Config):
    model_type = "windowed_olmo2"


class WindowedOlmo2Model(WindowedModelMixin, Olmo2Model):
    config_class = WindowedOlmo2Config


class WindowedOlmo2ForCausalLM(WindowedForCausalLMMixin, Olmo2ForCausalLM):
    config_class = WindowedOlmo2Config
    decoder_class = WindowedOlmo2Model

"""StarCoder 2 with a window: classes that transformers' auto classes find by ``windowed_starcoder2``."""

from transformers import Starcoder2Config, Starcoder2ForCausalLM, Starcoder2Model

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedStarcoder2Config(WindowedConfigMixin, Starcoder2Config):
    model_type = "windowed_starcoder2"


class WindowedStarcoder2Model(WindowedModelMixin, Starcoder2Model):
    config_class = WindowedStarcoder2Config


class WindowedStarcoder2ForCausalLM(WindowedForCausalLMMixin, Starcoder2ForCausalLM):
    config_class = WindowedStarcoder2Config
    decoder_class = WindowedStarcoder2Model

"""ERNIE 4.5 with a window: classes that transformers' auto classes find by ``windowed_ernie4_5``."""

from transformers import Ernie4_5Config, Ernie4_5ForCausalLM, Ernie4_5Model

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedErnie4_5Config(WindowedConfigMixin, Ernie4_5Config):
    model_type = "windowed_ernie4_5"


class WindowedErnie4_5Model(WindowedModelMixin, Ernie4_5Model):
    config_class = WindowedErnie4_5Config
    obstacle = "its rotary pairs are neighbours"


class WindowedErnie4_5ForCausalLM(WindowedForCausalLMMixin, Ernie4_5ForCausalLM):
    config_class = WindowedErnie4_5Config
    decoder_class = WindowedErnie4_5Model

"""EXAONE 4 with a window: classes that transformers' auto classes find by ``windowed_exaone4``."""

from transformers import Exaone4Config, Exaone4ForCausalLM, Exaone4Model

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedExaone4Config(WindowedConfigMixin, Exaone4Config):
    model_type = "windowed_exaone4"


class WindowedExaone4Model(WindowedModelMixin, Exaone4Model):
    config_class = WindowedExaone4Config
    obstacle = "each kind of its layers has positions of its own"


class WindowedExaone4ForCausalLM(WindowedForCausalLMMixin, Exaone4ForCausalLM):
    config_class = WindowedExaone4Config
    decoder_class = WindowedExaone4Model

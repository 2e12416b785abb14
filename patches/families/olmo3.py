"""OLMo 3 with a window: classes that transformers' auto classes find by ``windowed_olmo3``."""

from transformers import Olmo3Config, Olmo3ForCausalLM, Olmo3Model

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedOlmo3Config(WindowedConfigMixin, Olmo3Config):
    model_type = "windowed_olmo3"


class WindowedOlmo3Model(WindowedModelMixin, Olmo3Model):
    config_class = WindowedOlmo3Config
    obstacle = "each kind of its layers has positions of its own"


class WindowedOlmo3ForCausalLM(WindowedForCausalLMMixin, Olmo3ForCausalLM):
    config_class = WindowedOlmo3Config
    decoder_class = WindowedOlmo3Model

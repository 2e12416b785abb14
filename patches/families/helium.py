"""Helium with a window: classes that transformers' auto classes find by ``windowed_helium``."""

from transformers import HeliumConfig, HeliumForCausalLM, HeliumModel

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedHeliumConfig(WindowedConfigMixin, HeliumConfig):
    model_type = "windowed_helium"


class WindowedHeliumModel(WindowedModelMixin, HeliumModel):
    config_class = WindowedHeliumConfig
    obstacle = "its rotary pairs are neighbours"


class WindowedHeliumForCausalLM(WindowedForCausalLMMixin, HeliumForCausalLM):
    config_class = WindowedHeliumConfig
    decoder_class = WindowedHeliumModel

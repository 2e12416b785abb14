"""Arcee with a window: classes that transformers' auto classes find by ``windowed_arcee``."""

from transformers import ArceeConfig, ArceeForCausalLM, ArceeModel

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedArceeConfig(WindowedConfigMixin, ArceeConfig):
    model_type = "windowed_arcee"


class WindowedArceeModel(WindowedModelMixin, ArceeModel):
    config_class = WindowedArceeConfig


class WindowedArceeForCausalLM(WindowedForCausalLMMixin, ArceeForCausalLM):
    config_class = WindowedArceeConfig
    decoder_class = WindowedArceeModel

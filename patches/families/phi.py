"""Phi with a window: classes that transformers' auto classes find by ``windowed_phi``."""

from transformers import PhiConfig, PhiForCausalLM, PhiModel

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedPhiConfig(WindowedConfigMixin, PhiConfig):
    model_type = "windowed_phi"


class WindowedPhiModel(WindowedModelMixin, PhiModel):
    config_class = WindowedPhiConfig


class WindowedPhiForCausalLM(WindowedForCausalLMMixin, PhiForCausalLM):
    config_class = WindowedPhiConfig
    decoder_class = WindowedPhiModel

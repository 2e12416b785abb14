"""Granite with experts and a window: classes that auto classes find by ``windowed_granitemoe``."""

from transformers import GraniteMoeConfig, GraniteMoeForCausalLM, GraniteMoeModel

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedGraniteMoeConfig(WindowedConfigMixin, GraniteMoeConfig):
    model_type = "windowed_granitemoe"


class WindowedGraniteMoeModel(WindowedModelMixin, GraniteMoeModel):
    config_class = WindowedGraniteMoeConfig


class WindowedGraniteMoeForCausalLM(WindowedForCausalLMMixin, GraniteMoeForCausalLM):
    config_class = WindowedGraniteMoeConfig
    decoder_class = WindowedGraniteMoeModel

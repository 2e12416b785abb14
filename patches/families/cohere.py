"""Cohere (Command R) with a window: classes that transformers' auto classes find by ``windowed_cohere``."""

from transformers import CohereConfig, CohereForCausalLM, CohereModel

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedCohereConfig(WindowedConfigMixin, CohereConfig):
    model_type = "windowed_cohere"


class WindowedCohereModel(WindowedModelMixin, CohereModel):
    config_class = WindowedCohereConfig
    obstacle = "its rotary pairs are neighbours"


class WindowedCohereForCausalLM(WindowedForCausalLMMixin, CohereForCausalLM):
    config_class = WindowedCohereConfig
    decoder_class = WindowedCohereModel

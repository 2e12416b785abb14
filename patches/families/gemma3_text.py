"""Gemma 3 (text) with a window: classes that auto classes find by ``windowed_gemma3_text``."""

from transformers import Gemma3ForCausalLM, Gemma3TextConfig, Gemma3TextModel

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedGemma3Config(WindowedConfigMixin, Gemma3TextConfig):
    model_type = "windowed_gemma3_text"


class WindowedGemma3Model(WindowedModelMixin, Gemma3TextModel):
    config_class = WindowedGemma3Config
    obstacle = "each kind of its layers has positions of its own"


class WindowedGemma3ForCausalLM(WindowedForCausalLMMixin, Gemma3ForCausalLM):
    config_class = WindowedGemma3Config
    decoder_class = WindowedGemma3Model

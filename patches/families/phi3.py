"""Phi-3 with a window: classes that transformers' auto classes find by ``windowed_phi3``."""

from transformers import Phi3Config, Phi3ForCausalLM, Phi3Model

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedPhi3Config(WindowedConfigMixin, Phi3Config):
    model_type = "windowed_phi3"


class WindowedPhi3Model(WindowedModelMixin, Phi3Model):
    config_class = WindowedPhi3Config


class WindowedPhi3ForCausalLM(WindowedForCausalLMMixin, Phi3ForCausalLM):
    config_class = WindowedPhi3Config
    decoder_class = WindowedPhi3Model

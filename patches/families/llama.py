"""Llama with a window: classes that transformers' auto classes find by ``windowed_llama``."""

from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedLlamaConfig(WindowedConfigMixin, LlamaConfig):
    model_type = "windowed_llama"


class WindowedLlamaModel(WindowedModelMixin, LlamaModel):
    config_class = WindowedLlamaConfig


class WindowedLlamaForCausalLM(WindowedForCausalLMMixin, LlamaForCausalLM):
    config_class = WindowedLlamaConfig
    decoder_class = WindowedLlamaModel

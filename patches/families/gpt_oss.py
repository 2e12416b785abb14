"""gpt-oss with a window: classes that transformers' auto classes find by ``windowed_gpt_oss``."""

from transformers import GptOssConfig, GptOssForCausalLM, GptOssModel

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedGptOssConfig(WindowedConfigMixin, GptOssConfig):
    model_type = "windowed_gpt_oss"


class WindowedGptOssModel(WindowedModelMixin, GptOssModel):
    config_class = WindowedGptOssConfig


class WindowedGptOssForCausalLM(WindowedForCausalLMMixin, GptOssForCausalLM):
    config_class = WindowedGptOssConfig
    decoder_class = WindowedGptOssModel

"""StableLM with a window: classes that transformers' auto classes find by ``windowed_stablelm``."""

from transformers import StableLmConfig, StableLmForCausalLM, StableLmModel
from transformers.models.stablelm import modeling_stablelm as stock

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin
from patches.passing import PassingLayer, PassingMixin


class StableLmDecoderLayer(PassingLayer, stock.StableLmDecoderLayer):
    pass


class WindowedStableLmConfig(WindowedConfigMixin, StableLmConfig):
    model_type = "windowed_stablelm"


class WindowedStableLmModel(PassingMixin, WindowedModelMixin, StableLmModel):
    config_class = WindowedStableLmConfig
    layer_class = StableLmDecoderLayer


class WindowedStableLmForCausalLM(WindowedForCausalLMMixin, StableLmForCausalLM):
    config_class = WindowedStableLmConfig
    decoder_class = WindowedStableLmModel

"""Nemotron with a window: classes that transformers' auto classes find by ``windowed_nemotron``."""

from transformers import NemotronConfig, NemotronForCausalLM, NemotronModel
from transformers.models.nemotron import modeling_nemotron as stock

from patches.config import WindowedConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin
from patches.passing import PassingLayer, PassingMixin


class NemotronDecoderLayer(PassingLayer, stock.NemotronDecoderLayer):
    pass


class WindowedNemotronConfig(WindowedConfigMixin, NemotronConfig):
    model_type = "windowed_nemotron"


class WindowedNemotronModel(PassingMixin, WindowedModelMixin, NemotronModel):
    config_class = WindowedNemotronConfig
    layer_class = NemotronDecoderLayer


class WindowedNemotronForCausalLM(WindowedForCausalLMMixin, NemotronForCausalLM):
    config_class = WindowedNemotronConfig
    decoder_class = WindowedNemotronModel

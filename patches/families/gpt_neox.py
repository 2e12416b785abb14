"""GPT-NeoX (Pythia) with a window, fewer KV heads or both: classes found by ``windowed_gpt_neox``."""

from typing import ClassVar

from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, GPTNeoXModel
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXAttention

from patches.grouped.layouts import INTERLEAVED
from patches.grouped.modeling import GroupedLayers
from patches.grouped.windowed import GroupedWindowAttention, GroupedWindowConfigMixin
from patches.modeling import WindowedForCausalLMMixin, WindowedModelMixin


class WindowedGPTNeoXAttention(GroupedWindowAttention, GPTNeoXAttention):
    layouts: ClassVar = {"query_key_value": INTERLEAVED}
    cache_argument = "layer_past"


class WindowedGPTNeoXConfig(GroupedWindowConfigMixin, GPTNeoXConfig):
    model_type = "windowed_gpt_neox"


class WindowedGPTNeoXModel(WindowedModelMixin, GroupedLayers, GPTNeoXModel):
    config_class = WindowedGPTNeoXConfig
    attention_class = WindowedGPTNeoXAttention
    attention_name = "attention"


class WindowedGPTNeoXForCausalLM(WindowedForCausalLMMixin, GPTNeoXForCausalLM):
    config_class = WindowedGPTNeoXConfig
    decoder_class = WindowedGPTNeoXModel

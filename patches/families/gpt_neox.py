"""GPT-NeoX (Pythia) with fewer KV heads: classes that auto classes find by ``windowed_gpt_neox``."""

from typing import ClassVar

from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, GPTNeoXModel
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXAttention

from patches.grouped.attention import GroupedAttention
from patches.grouped.config import GroupedConfigMixin
from patches.grouped.layouts import INTERLEAVED
from patches.grouped.modeling import GroupedMixin


class GroupedGPTNeoXAttention(GroupedAttention, GPTNeoXAttention):
    layouts: ClassVar = {"query_key_value": INTERLEAVED}


class WindowedGPTNeoXConfig(GroupedConfigMixin, GPTNeoXConfig):
    model_type = "windowed_gpt_neox"


class WindowedGPTNeoXModel(GroupedMixin, GPTNeoXModel):
    config_class = WindowedGPTNeoXConfig
    attention_class = GroupedGPTNeoXAttention


class WindowedGPTNeoXForCausalLM(GroupedMixin, GPTNeoXForCausalLM):
    config_class = WindowedGPTNeoXConfig
    attention_class = GroupedGPTNeoXAttention

"""MPT with fewer KV heads: classes that auto classes find by ``windowed_mpt``."""

from typing import ClassVar

from transformers import MptConfig, MptForCausalLM, MptModel
from transformers.models.mpt.modeling_mpt import MptAttention

from patches.grouped.attention import GroupedAttention
from patches.grouped.config import GroupedConfigMixin
from patches.grouped.layouts import BLOCKS
from patches.grouped.modeling import GroupedMixin


class GroupedMptAttention(GroupedAttention, MptAttention):
    layouts: ClassVar = {"Wqkv": BLOCKS}


class WindowedMptConfig(GroupedConfigMixin, MptConfig):
    model_type = "windowed_mpt"


class WindowedMptModel(GroupedMixin, MptModel):
    config_class = WindowedMptConfig
    attention_class = GroupedMptAttention


class WindowedMptForCausalLM(GroupedMixin, MptForCausalLM):
    config_class = WindowedMptConfig
    attention_class = GroupedMptAttention

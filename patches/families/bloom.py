"""BLOOM with fewer KV heads: classes that auto classes find by ``windowed_bloom``."""

from typing import ClassVar

from transformers import BloomConfig, BloomForCausalLM, BloomModel
from transformers.models.bloom.modeling_bloom import BloomAttention

from patches.grouped.attention import GroupedAttention
from patches.grouped.config import GroupedConfigMixin
from patches.grouped.layouts import INTERLEAVED
from patches.grouped.modeling import GroupedMixin


class GroupedBloomAttention(GroupedAttention, BloomAttention):
    layouts: ClassVar = {"query_key_value": INTERLEAVED}


class WindowedBloomConfig(GroupedConfigMixin, BloomConfig):
    model_type = "windowed_bloom"


class WindowedBloomModel(GroupedMixin, BloomModel):
    config_class = WindowedBloomConfig
    attention_class = GroupedBloomAttention


class WindowedBloomForCausalLM(GroupedMixin, BloomForCausalLM):
    config_class = WindowedBloomConfig
    attention_class = GroupedBloomAttention

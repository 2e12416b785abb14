"""Falcon with fewer KV heads: classes that auto classes find by ``windowed_falcon``.

Falcon's own grouped form has other layer norms, and transformers caches it with a KV head per query head.
"""

from typing import ClassVar

from transformers import FalconConfig, FalconForCausalLM, FalconModel
from transformers.models.falcon.modeling_falcon import FalconAttention

from patches.grouped.attention import GroupedAttention
from patches.grouped.config import GroupedConfigMixin
from patches.grouped.layouts import INTERLEAVED
from patches.grouped.modeling import GroupedMixin


class GroupedFalconAttention(GroupedAttention, FalconAttention):
    layouts: ClassVar = {"query_key_value": INTERLEAVED}


class WindowedFalconConfig(GroupedConfigMixin, FalconConfig):
    model_type = "windowed_falcon"
    needs: ClassVar = {"multi_query": False, "new_decoder_architecture": False}


class WindowedFalconModel(GroupedMixin, FalconModel):
    config_class = WindowedFalconConfig
    attention_class = GroupedFalconAttention
    _supports_flash_attn = False


class WindowedFalconForCausalLM(GroupedMixin, FalconForCausalLM):
    config_class = WindowedFalconConfig
    attention_class = GroupedFalconAttention
    _supports_flash_attn = False

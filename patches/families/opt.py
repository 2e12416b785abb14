"""OPT with fewer KV heads: classes that auto classes find by ``windowed_opt``."""

from typing import ClassVar

from transformers import OPTConfig, OPTForCausalLM, OPTModel
from transformers.models.opt.modeling_opt import OPTAttention

from patches.grouped.attention import GroupedAttention
from patches.grouped.config import GroupedConfigMixin
from patches.grouped.layouts import SEPARATE
from patches.grouped.modeling import GroupedMixin


class GroupedOPTAttention(GroupedAttention, OPTAttention):
    layouts: ClassVar = {"k_proj": SEPARATE, "v_proj": SEPARATE}


class WindowedOPTConfig(GroupedConfigMixin, OPTConfig):
    model_type = "windowed_opt"


class WindowedOPTModel(GroupedMixin, OPTModel):
    config_class = WindowedOPTConfig
    attention_class = GroupedOPTAttention


class WindowedOPTForCausalLM(GroupedMixin, OPTForCausalLM):
    config_class = WindowedOPTConfig
    attention_class = GroupedOPTAttention

"""GPT-J with fewer KV heads: classes that auto classes find by ``windowed_gptj``."""

from typing import ClassVar

from transformers import GPTJConfig, GPTJForCausalLM, GPTJModel
from transformers.models.gptj.modeling_gptj import GPTJAttention

from patches.grouped.attention import GroupedAttention
from patches.grouped.config import GroupedConfigMixin
from patches.grouped.layouts import SEPARATE
from patches.grouped.modeling import GroupedMixin


class GroupedGPTJAttention(GroupedAttention, GPTJAttention):
    layouts: ClassVar = {"k_proj": SEPARATE, "v_proj": SEPARATE}


class WindowedGPTJConfig(GroupedConfigMixin, GPTJConfig):
    model_type = "windowed_gptj"


class WindowedGPTJModel(GroupedMixin, GPTJModel):
    config_class = WindowedGPTJConfig
    attention_class = GroupedGPTJAttention
    _supports_flash_attn = False


class WindowedGPTJForCausalLM(GroupedMixin, GPTJForCausalLM):
    config_class = WindowedGPTJConfig
    attention_class = GroupedGPTJAttention
    _supports_flash_attn = False

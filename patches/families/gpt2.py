"""GPT-2 with fewer KV heads: classes that auto classes find by ``windowed_gpt2``."""

from typing import ClassVar

from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention

from patches.grouped.attention import GroupedAttention
from patches.grouped.config import GroupedConfigMixin
from patches.grouped.layouts import BLOCKS
from patches.grouped.modeling import GroupedMixin


class GroupedGPT2Attention(GroupedAttention, GPT2Attention):
    layouts: ClassVar = {"c_attn": BLOCKS}


class WindowedGPT2Config(GroupedConfigMixin, GPT2Config):
    model_type = "windowed_gpt2"
    needs: ClassVar = {"add_cross_attention": False}


class WindowedGPT2Model(GroupedMixin, GPT2Model):
    config_class = WindowedGPT2Config
    attention_class = GroupedGPT2Attention


class WindowedGPT2ForCausalLM(GroupedMixin, GPT2LMHeadModel):
    config_class = WindowedGPT2Config
    attention_class = GroupedGPT2Attention

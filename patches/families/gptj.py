"""GPT-J with fewer KV heads: classes that auto classes find by ``windowed_gptj``."""

from typing import ClassVar

from torch import Tensor
from transformers import GPTJConfig, GPTJForCausalLM, GPTJModel
from transformers.models.gptj.modeling_gptj import GPTJAttention

from patches.grouped.attention import GroupedAttention
from patches.grouped.config import GroupedConfigMixin
from patches.grouped.layouts import SEPARATE
from patches.grouped.modeling import GroupedMixin


class GroupedGPTJAttention(GroupedAttention, GPTJAttention):
    layouts: ClassVar = {"k_proj": SEPARATE, "v_proj": SEPARATE}

    def takes_compact(self, tokens: int) -> bool:
        return tokens == 1

    def _attn(self, query: Tensor, key: Tensor, value: Tensor, *mask: Tensor | None) -> tuple[Tensor, Tensor]:
        # The queries of a stored head are rows of it; with all heads there, this changes no shape.
        batch, heads, tokens, dim = query.shape
        rows = query.reshape(batch, key.shape[1], -1, dim)
        output, weights = super()._attn(rows, key, value, *mask)
        return output.reshape(query.shape), weights.reshape(batch, heads, tokens, -1)


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

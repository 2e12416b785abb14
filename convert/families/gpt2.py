"""GPT-2: queries, keys and values in one Conv1D; with one KV head it is ``gpt_bigcode``."""

from dataclasses import dataclass

from convert.families.family import Family
from convert.families.forms import Native
from convert.families.keys import Config, sizes
from convert.families.layouts.concatenated import Concatenated

BIGCODE = Concatenated(name="c_attn", output="c_proj", qkv_bias=True, output_bias=True)
MEANINGLESS = (
    *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
    *("summary_first_dropout", "task_specific_params", "n_ctx"),
    *("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"),
)
"""Keys of GPT-2 that GPT-BigCode does not have; those that change more than rounding are false by then."""


@dataclass(frozen=True)
class GPT2(Family):
    """GPT-2 has a KV head per query head, GPT-BigCode is the same network with one in all."""

    def native(self, config: Config, kv_heads: int) -> Native | None:
        """Write one KV head as ``gpt_bigcode``, unless attention is scaled by layer, which only GPT-2 can."""
        if kv_heads != 1 or config.get("scale_attn_by_inverse_layer_idx"):
            return None
        kept = {key: value for key, value in config.items() if key not in MEANINGLESS}
        own = {
            "model_type": "gpt_bigcode",
            "architectures": ["GPTBigCodeForCausalLM"],
            "multi_query": True,
            # What a config leaves to GPT-2's default, GPT-BigCode takes differently.
            "activation_function": config.get("activation_function", "gelu_new"),
        }
        return Native(
            config=kept | own,
            layout=BIGCODE,
            reason="gpt_bigcode is gpt2 with one KV head; every engine loads it",
            transposed=("mlp.c_fc.weight", "mlp.c_proj.weight"),
            dropped=self.buffers,
        )


GPT_2 = GPT2(
    model_type="gpt2",
    prefix="GPT2",
    layout=Concatenated(name="c_attn", output="c_proj", qkv_bias=True, output_bias=True, conv1d=True),
    defaults=sizes(768, layers=12, heads=12) | {"max_position_embeddings": 1024},
    aliases={
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
    },
    refuses={"add_cross_attention": "there is cross-attention"},
    grouped=False,
    base="transformer",
    layers="h",
    attention="attn",
    buffers=("attn.bias", "attn.masked_bias"),
    rotary_part=None,
    fewer="as `gpt_bigcode` (one) or `windowed_gpt2`",
)

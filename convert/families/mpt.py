"""MPT: queries, keys and values in one tensor, a slope per head instead of rotary positions."""

from convert.families.family import Family
from convert.families.keys import sizes
from convert.families.layouts.concatenated import Concatenated

MPT = Family(
    model_type="mpt",
    prefix="Mpt",
    layout=Concatenated(name="Wqkv", output="out_proj"),
    defaults=sizes(2048, layers=24, heads=16) | {"max_position_embeddings": 2048},
    aliases={
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "max_position_embeddings": "max_seq_len",
    },
    refuses={
        "attn_config.qk_ln": "there are query and key norms, which transformers does not compute",
        "attn_config.prefix_lm": "attention looks both ways in the prefix",
    },
    grouped=False,
    base="transformer",
    layers="blocks",
    attention="attn",
    rotary_part=None,
    alibi=True,
    clip="attn_config.clip_qkv",
    note="with clip_qkv heads are only averaged",
)

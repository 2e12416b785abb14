"""GPT-J: neighbouring dimensions of the first ``rotary_dim`` are rotary pairs."""

from dataclasses import dataclass

from convert.families.family import Family
from convert.families.keys import Config, sizes
from convert.families.layouts.separate import Separate
from convert.heads import Rotary


@dataclass(frozen=True)
class GPTJ(Family):
    """Its config counts rotary dimensions, not the part of a head that they are."""

    def rotary(self, config: Config, layer: int) -> Rotary:
        """Say which dimensions of a head rotary positions turn."""
        return Rotary(config.get("rotary_dim", 64), interleaved=True)


GPT_J = GPTJ(
    model_type="gptj",
    prefix="GPTJ",
    layout=Separate(output="out_proj"),
    defaults=sizes(4096, layers=28, heads=16) | {"max_position_embeddings": 2048},
    aliases={
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
    },
    grouped=False,
    base="transformer",
    layers="h",
    attention="attn",
    buffers=("attn.bias", "attn.masked_bias"),
    interleaved=True,
)

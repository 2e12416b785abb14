"""Falcon in its three forms: a KV head per query head, one in all, or (the new decoder) any number."""

from dataclasses import dataclass
from typing import Any

from convert.families.family import Family
from convert.families.forms import Native
from convert.families.keys import Config, is_on, sizes
from convert.families.layouts.interleaved import Interleaved
from convert.heads import Rotary

REPEATED = "only num_kv_heads changes; transformers repeats the heads in its cache, other engines do not"
NEW, SINGLE = ("new_decoder_architecture", False), ("multi_query", True)


@dataclass(frozen=True)
class Falcon(Family):
    """Falcon's config says in three keys how many KV heads there are."""

    def read_kv_heads(self, config: Config) -> Any:
        """Read the number of KV heads; None: as many as query heads."""
        if is_on(NEW, config):
            return config.get("num_kv_heads")
        return 1 if is_on(SINGLE, config) else None

    def native(self, config: Config, kv_heads: int) -> Native | None:
        """Write any number in the new decoder, and a single KV head in the old one."""
        if is_on(NEW, config):
            return Native(dict(config) | {"num_kv_heads": kv_heads}, self.layout, REPEATED)
        if kv_heads == 1:
            return Native(dict(config) | {"multi_query": True}, self.layout)
        return None

    def rotary(self, config: Config, layer: int) -> Rotary:
        """Say which dimensions of a head rotary positions turn: none where ``alibi`` is set."""
        return Rotary(0) if self.ordered(config) else super().rotary(config, layer)


FALCON = Falcon(
    model_type="falcon",
    prefix="Falcon",
    layout=Interleaved(output="dense", qkv_bias=("bias", False), output_bias=("bias", False)),
    defaults=sizes(4544, layers=32, heads=71),
    aliases={"hidden_size": "n_embed"},
    grouped=False,
    base="transformer",
    layers="h",
    attention="self_attention",
    alibi=("alibi", False),
    fewer="native: one, or new decoder; else `windowed_falcon`",
    note="transformers caches the new decoder with all heads, others do not",
)

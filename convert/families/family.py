"""What the converter must know about one model family."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from convert.families.layouts.layout import Config, Layout, Switch, is_on
from convert.heads import AttentionHeads, HeadShape, Rotary


@dataclass(frozen=True)
class NativeWindow:
    """The keys by which a family's own ``config.json`` says that layers slide.

    Args:
        default_size: What the family takes when ``sliding_window`` is absent.
        switch: Key that must be true for the window to apply, if there is one.
        first_layer: Key naming the first layer that slides, if there is one, and its default.
        per_layer: Whether ``layer_types`` is understood; if not, every layer slides or none does.
    """

    default_size: int
    switch: str | None = None
    first_layer: tuple[str, int] | None = None
    per_layer: bool = False


@dataclass(frozen=True)
class Sibling:
    """Another native architecture with the same weights that also understands ``layer_types``.

    Args:
        model_type: Its ``model_type``.
        prefix: Prefix of its class names.
        lacks: Keys of this family that the sibling does not have; a config in which one is true cannot move.
        drops: Keys that mean nothing to the sibling and change nothing, removed when moving.
    """

    model_type: str
    prefix: str
    lacks: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """One supported ``model_type``. What a field cannot say, a family says by overriding a method.

    Args:
        model_type: As in ``config.json``.
        prefix: Prefix of its class names: ``Llama`` in ``LlamaForCausalLM``.
        layout: How a layer's attention tensors are stored.
        defaults: Values the family takes for shape keys that a config leaves out.
        aliases: The family's own names of such keys: ``{"hidden_size": "n_embd"}``.
        grouped: Whether the architecture itself can have fewer KV heads than query heads.
        window: Its native sliding window, if it has one.
        sibling: Where windows go that this family's own config cannot say.
        windowed: Whether ``windowed_<model_type>`` can have a window with sinks.
        base: Name of the base model inside the causal language model; some hub checkpoints leave it out.
        layers: Module path of the decoder layers inside the base model.
        attention: Name of the attention module inside a layer.
        residual: Name of the module of a layer whose output is added to the residual stream after attention,
            if that is not the output projection itself.
        residual_multiplier: Config key of the number by which it is multiplied first, if there is one.
        rotary_part: Part of a head that is rotary where the config is silent; None: positions are not rotary.
        rotary_keys: Config keys of that part, at the top level or in ``rope_parameters``.
        interleaved: Whether rotary pairs are neighbours.
        norm: Whether a norm acts on keys between their projection and their rotation.
        clip: Path in the config of a limit to which queries, keys and values are clipped.
        note: What is special about it, for ``--help``.
    """

    model_type: str
    prefix: str
    layout: Layout
    defaults: Mapping[str, int | None]
    aliases: Mapping[str, str] = field(default_factory=dict)
    grouped: bool = True
    window: NativeWindow | None = None
    sibling: Sibling | None = None
    windowed: bool = False
    base: str = "model"
    layers: str = "layers"
    attention: str = "self_attn"
    residual: str = ""
    residual_multiplier: str = ""
    rotary_part: float | None = 1.0
    rotary_keys: tuple[str, ...] = ()
    interleaved: bool = False
    norm: Switch = False
    clip: tuple[str, ...] = ()
    note: str = ""

    def value(self, config: Config, key: str) -> Any:
        """Read a size by its usual name, with the family's own name and default for it."""
        own = self.aliases.get(key, key)
        return config.get(own, config.get(key, self.defaults.get(key)))

    def read_kv_heads(self, config: Config) -> Any:
        """Read the number of KV heads; None: as many as query heads."""
        return self.value(config, "num_key_value_heads") if self.grouped else None

    def write_kv_heads(self, config: Config, kv_heads: int) -> dict[str, Any]:
        """Give a config with another number of KV heads."""
        return dict(config) | {"num_key_value_heads": kv_heads}

    def tensor(self, layer: int, suffix: str, bare: bool = False) -> str:
        """Name one attention tensor, such as ``model.layers.0.self_attn.k_proj.weight``.

        Args:
            layer: Its layer.
            suffix: Its name below the attention module.
            bare: Whether the checkpoint leaves out the name of the base model.
        """
        name = f"{self.layers}.{layer}.{self.attention}.{suffix}"
        return name if bare else f"{self.base}.{name}"

    def is_bare(self, names: Collection[str]) -> bool:
        """Say whether the tensor names of a checkpoint leave out the name of the base model."""
        first = next(iter(self.layout.roles()))
        return self.tensor(0, first) not in names and self.tensor(0, first, bare=True) in names

    def split_layer(self, tensors: Mapping[str, Tensor], shape: HeadShape, config: Config) -> AttentionHeads:
        """Take one layer's attention apart.

        Args:
            tensors: By suffix, as ``layout.tensors`` names and sizes them.
            shape: Sizes of the layer.
            config: ``config.json``.

        Returns:
            The heads, in the tensors' dtype.
        """
        parts: dict[str, Tensor] = {}
        for suffix in self.layout.roles(config):
            parts |= self.layout.split(suffix, tensors[suffix], shape)
        return AttentionHeads(**parts)

    def join_layer(self, heads: AttentionHeads, shape: HeadShape, config: Config) -> dict[str, Tensor]:
        """Put one layer's attention together: the inverse of ``split_layer``.

        Args:
            heads: The heads.
            shape: Their sizes.
            config: ``config.json``.

        Returns:
            The tensors, by suffix.
        """
        parts = heads.parts()
        return {suffix: self.layout.join(suffix, parts, shape) for suffix in self.layout.roles(config)}

    def rotary(self, config: Config, layer: int) -> Rotary:
        """Say which dimensions of a head rotary positions turn in one layer, and how they pair."""
        if self.rotary_part is None:
            return Rotary(0)
        part: Any = self.rotary_part
        nested = config.get("rope_scaling") or config.get("rope_parameters") or {}
        for source in (config, nested):
            for key in self.rotary_keys:
                if isinstance(source, Mapping) and source.get(key) is not None:
                    part = source[key]
        head_dim = self.value(config, "head_dim") or (
            self.value(config, "hidden_size") // self.value(config, "num_attention_heads")
        )
        return Rotary(int(head_dim * part), self.interleaved)

    def key_norm(self, config: Config) -> bool:
        """Say whether a norm acts on keys before their rotation, so that keys may only be averaged."""
        return is_on(self.norm, config)

    def fixed(self, config: Config) -> str | None:
        """Say why the heads of this checkpoint may not be rotated at all, only averaged; None: they may."""
        value: Any = config
        for key in self.clip:
            value = value.get(key) if isinstance(value, Mapping) else None
        return f"{'.'.join(self.clip)}={value!r} clips every number of a key or value" if value else None

    def residual_scale(self, config: Config) -> float:
        """Give the number that multiplies attention's output before it is added to the residual stream."""
        return float(config.get(self.residual_multiplier, 1.0)) if self.residual_multiplier else 1.0

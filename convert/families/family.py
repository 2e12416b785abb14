"""What the converter must know about one model family."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from convert.families.forms import Native, NativeWindow, Sibling
from convert.families.keys import Config, Switch, is_on, look_up
from convert.families.layouts.layout import Layout
from convert.heads import AttentionHeads, HeadShape, Rotary

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Family:
    """One supported ``model_type``. What a field cannot say, a family says by overriding a method.

    Args:
        model_type: As in ``config.json``.
        prefix: Prefix of its class names: ``Llama`` in ``LlamaForCausalLM``.
        layout: How a layer's attention tensors are stored.
        defaults: Values the family takes for shape keys that a config leaves out.
        aliases: The family's own names of such keys: ``{"hidden_size": "n_embd"}``.
        refuses: Config keys that, when true, mean something that cannot be converted, and what they mean.
        grouped: Whether the architecture itself can have any number of KV heads.
        window: Its native sliding window, if it has one.
        sibling: Where windows go that this family's own config cannot say.
        windowed: Whether ``windowed_<model_type>`` can have a window with sinks.
        base: Name of the base model inside the causal language model; some hub checkpoints leave it out.
        layers: Module path of the decoder layers inside the base model.
        attention: Name of the attention module inside a layer.
        buffers: Tensors of a layer that old checkpoints hold and transformers no longer reads.
        residual: Name of the module of a layer whose output is added to the residual stream after attention,
            if that is not the output projection itself.
        residual_multiplier: Config key of the number by which it is multiplied first, if there is one.
        rotary_part: Part of a head that is rotary where the config is silent; None: positions are not rotary.
        rotary_keys: Config keys of that part, at the top level or in ``rope_parameters``.
        interleaved: Whether rotary pairs are neighbours.
        alibi: Whether each query head has a slope of its own (ALiBi), so that heads cannot change places.
        norm: Whether a norm acts on keys between their projection and their rotation.
        clip: Config key of a limit to which queries, keys and values are clipped.
        fewer: How fewer KV heads are written, where ``grouped`` does not say it.
        note: What is special about it, for ``--help``.
    """

    model_type: str
    prefix: str
    layout: Layout
    defaults: Mapping[str, Any]
    aliases: Mapping[str, str] = field(default_factory=dict)
    refuses: Mapping[str, str] = field(default_factory=dict)
    grouped: bool = True
    window: NativeWindow | None = None
    sibling: Sibling | None = None
    windowed: bool = False
    base: str = "model"
    layers: str = "layers"
    attention: str = "self_attn"
    buffers: tuple[str, ...] = ()
    residual: str = ""
    residual_multiplier: str = ""
    rotary_part: float | None = 1.0
    rotary_keys: tuple[str, ...] = ()
    interleaved: bool = False
    alibi: Switch = False
    norm: Switch = False
    clip: str = ""
    fewer: str = ""
    note: str = ""

    def value(self, config: Config, key: str) -> Any:
        """Read a size by its usual name, with the family's own name and default for it."""
        for name in (self.aliases.get(key, key), key):
            if config.get(name) is not None:
                return config[name]
        return None if key in config else self.defaults.get(key)

    def refusal(self, config: Config) -> str | None:
        """Say why a checkpoint with this config cannot be converted; None: it can."""
        for key, meaning in self.refuses.items():
            if look_up(config, key):
                return f"config.json: {key}={look_up(config, key)!r}: {meaning}, which cannot be converted"
        return None

    def read_kv_heads(self, config: Config) -> Any:
        """Read the number of KV heads; None: as many as query heads."""
        return self.value(config, "num_key_value_heads") if self.grouped else None

    def fewer_heads(self) -> str:
        """Say for the README how a result with fewer KV heads is written."""
        return self.fewer or ("native" if self.grouped else f"as `windowed_{self.model_type}`")

    def write_kv_heads(self, config: Config, kv_heads: int) -> dict[str, Any]:
        """Give a config with another number of KV heads, as a grouped family or a windowed class reads it."""
        return dict(config) | {"num_key_value_heads": kv_heads}

    def native(self, config: Config, kv_heads: int) -> Native | None:
        """Say how a result with this many KV heads is written for transformers as it is.

        Args:
            config: The source's ``config.json``.
            kv_heads: KV heads of the result, fewer than the source's.

        Returns:
            The form; None: no native architecture expresses it.
        """
        return Native(self.write_kv_heads(config, kv_heads), self.layout) if self.grouped else None

    def tensor(self, layer: int, suffix: str, bare: bool = False) -> str:
        """Name one attention tensor, such as ``model.layers.0.self_attn.k_proj.weight``.

        Args:
            layer: Its layer.
            suffix: Its name below the attention module.
            bare: Whether the checkpoint leaves out the name of the base model.
        """
        return self.layer_tensor(layer, f"{self.attention}.{suffix}", bare)

    def layer_tensor(self, layer: int, suffix: str, bare: bool = False) -> str:
        """Name one tensor of a layer."""
        name = f"{self.layers}.{layer}.{suffix}"
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

    def head_dim(self, config: Config) -> int:
        """Read the numbers per head."""
        hidden_size, heads = (self.value(config, key) for key in ("hidden_size", "num_attention_heads"))
        return int(self.value(config, "head_dim") or hidden_size // heads)

    def rotary(self, config: Config, layer: int) -> Rotary:
        """Say which dimensions of a head rotary positions turn in one layer, and how they pair."""
        if self.rotary_part is None:
            return Rotary(0)
        part: Any = self.rotary_part
        nested = config.get("rope_scaling") or config.get("rope_parameters") or {}
        for source in (config, nested):
            for key in self.rotary_keys:
                found = look_up(source, key)
                part = part if found is None else found
        return Rotary(int(self.head_dim(config) * part), self.interleaved)

    def window_size(self, config: Config) -> Any:
        """Read the native window in tokens; None: there is none, or it is off."""
        window = self.window
        if window is None or (window.switch is not None and not config.get(window.switch)):
            return None
        return config.get("sliding_window", window.default_size)

    def is_sliding(self, config: Config, layer: int) -> bool:
        """Say whether the native window applies to a layer."""
        kinds = config.get("layer_types")
        if self.window_size(config) is None:
            return False
        if kinds is not None and self.window is not None and self.window.per_layer:
            return bool(kinds[layer] == "sliding_attention")
        return self.slides(config, layer)

    def slides(self, config: Config, layer: int) -> bool:
        """Say whether a layer slides where ``layer_types`` is absent and the native window is on."""
        window = self.window
        if window is not None and window.first_layer is not None:
            key, first = window.first_layer
            return bool(layer >= config.get(key, first))
        if window is not None and window.period is not None:
            key, period = window.period
            return bool((layer + 1) % config.get(key, period))
        return window is not None

    def key_norm(self, config: Config) -> bool:
        """Say whether a norm acts on keys after their projection, so that keys may only be averaged."""
        return is_on(self.norm, config)

    def ordered(self, config: Config) -> bool:
        """Say whether heads cannot change places, because each has a number of its own."""
        return is_on(self.alibi, config)

    def fixed(self, config: Config) -> str | None:
        """Say why the heads of this checkpoint may not be rotated at all, only averaged; None: they may."""
        limit = look_up(config, self.clip) if self.clip else None
        return f"{self.clip}={limit!r} clips every number of a query, key or value" if limit else None

    def residual_scale(self, config: Config) -> float:
        """Give the number that multiplies attention's output before it is added to the residual stream."""
        return float(config.get(self.residual_multiplier, 1.0)) if self.residual_multiplier else 1.0

"""A source whose layers can be given a window, and full attention back, between two passes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig

import patches
from convert import Request
from convert.attention import read_shape
from convert.caches import PLAIN
from convert.configs import windowed
from convert.families import find_family
from convert.positions import check_positions
from convert.source import open_source
from convert.tiers import check_own_class
from convert.window import read_window
from eval.checkpoint import find_checkpoint, load, pick_device, pick_dtype
from recipes.errors import RecipeError
from recipes.schema import ConvertPart


class WindowSwitch:
    """The source in the class that has windows: its own weights and KV heads, and a window to be switched.

    One model in memory serves every choice of layers, the unwindowed source included.

    Attributes:
        loaded: The model with its tokenizer.
        layers: Decoder layers.
        reach: ``W + S``: the first position from which a window hides something.

    Holds: all layers global give the source's logits, no layer global those of the converted checkpoint
    (tests/recipes/test_placement.py).
    """

    def __init__(self, folder: Path, part: ConvertPart, device: str = "auto"):
        """Load a source.

        Args:
            folder: A dense checkpoint.
            part: A conversion with a window; its heads and its cache are left aside.
            device: As torch names it, or ``auto``.

        Raises:
            ConvertError: the window cannot be had with this source.
            RecipeError: some of its layers slide, so that full attention cannot be given back to them.
        """
        source = open_source(str(folder))
        family = find_family(source.config)
        check_own_class(family, f"global_layers=auto: {family.model_type} cannot have a window")
        shape = read_shape(family, source.config)
        sliding = [layer for layer, own in enumerate(shape.windows) if own is not None]
        if sliding:
            raise RecipeError(
                f"global_layers=auto: layer {sliding[0]} of the source slides over "
                f"{shape.windows[sliding[0]]} tokens and cannot be global; name the layers"
            )
        asked = Request("", folder, window=part.window, sinks=part.sinks, positions=part.positions)
        window = read_window(asked, shape)
        if window is None:
            raise RecipeError("global_layers=auto needs a window")
        check_positions(window, family, source.config, shape)
        self.layers = shape.layers
        self.reach = window.size + window.sinks
        self._policy = patches.WindowPolicy(window.size, window.sinks, window.positions, ())
        entry = windowed(family, source.config, (shape.kv_heads,) * shape.layers, window, PLAIN)
        checkpoint, where = find_checkpoint("source", folder), pick_device(device)
        dtype, config = pick_dtype("auto", where, checkpoint), AutoConfig.for_model(**entry)
        self.loaded = load(checkpoint, where, dtype, config=config)

    @property
    def window(self) -> int:
        """``W``, tokens that a query sees in a windowed layer, its own included."""
        return self.reach - self.sinks

    @property
    def sinks(self) -> int:
        """``S``, first tokens that all later queries see as well."""
        return self._policy.sinks

    @torch.inference_mode()
    def logits(self, ids: Tensor, positions: Tensor, global_layers: Sequence[int]) -> Tensor:
        """Next-token logits of one row.

        Args:
            ids: ``[T]`` int64.
            positions: ``[P]`` int64, the queries whose logits are wanted.
            global_layers: Layers with full attention in this pass.

        Returns:
            ``[P, V]``.
        """
        model = self.loaded.model
        # The config is what a windowed model reads its windows from, in every pass.
        model.config.attention_window = replace(self._policy, global_layers=tuple(global_layers)).to_config()
        where = self.loaded.device
        passed = model(input_ids=ids[None].to(where), logits_to_keep=positions.to(where), use_cache=False)
        logits: Tensor = passed.logits[0]
        return logits

"""The caches that are compared: a policy for each kind of layer, and transformers' own quantized ones."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from transformers import QuantizedCache

import patches
from eval.caches.records import BASELINE, Ask, ContenderRecord
from eval.checkpoint import Loaded, one_line
from eval.errors import EvalError
from eval.memory import CacheShape
from patches.cache.policies import KvCache
from patches.policy import PolicyError

PEERS: dict[str, dict[str, Any]] = {
    "transformers, quanto 4 bit": {"backend": "quanto", "nbits": 4},
    "transformers, hqq 4 bit": {"backend": "hqq", "nbits": 4},
    "transformers, fp8": {"backend": "fp8"},
}
"""Settings of ``QuantizedCache``, which quantizes what it is given again at every ``residual_length``."""
TRIED = 12
"""Tokens with which a contender is tried before anything is measured."""


@dataclass(frozen=True)
class Contender:
    """One way of keeping a cache.

    Attributes:
        make: An empty one.
        nbytes: What it holds of so many tokens of one sequence, by its formula; None where there is none.
        peer: Whether it is not ours.
        peak: Bytes beside those that it keeps, in words.
    """

    name: str
    make: Callable[[], Any]
    nbytes: Callable[[int], int | None]
    peer: bool = False
    peak: str = ""


def contenders(ask: Ask, loaded: Loaded) -> Iterator[Contender]:
    """All that were asked for, the one that keeps everything first."""
    for policy, window_policy in ask.policies:
        kept = KvCache.from_specs(policy, window_policy)
        shape = with_policies(ask.checkpoint.shape, kept)
        said = [kept.global_layers.policy.peak]
        if window_policy != BASELINE:
            said.append(f"in window layers {kept.window_layers.policy.peak}")
        yield Contender(
            policy if window_policy == BASELINE else f"{policy}, window {window_policy}",
            partial(patches.make_cache, loaded.model, policy, window_policy),
            partial(shape.kv_bytes, element_bytes=loaded.dtype.itemsize),
            peak="; ".join(said),
        )
    for name, settings in PEERS.items() if ask.peers else ():
        make = partial(QuantizedCache, config=loaded.model.config, **settings)
        yield Contender(name, make, lambda _: None, peer=True)


def with_policies(shape: CacheShape, kept: KvCache) -> CacheShape:
    """A checkpoint's cache with policies in place of its own; layers that slide natively stay as they are."""
    if shape.layers is None:
        return shape
    layers = [
        layer
        if layer.choice is None and layer.place.window is not None
        else replace(layer, choice=kept.of(layer.place.window))
        for layer in shape.layers
    ]
    return replace(shape, layers=tuple(layers))


@torch.inference_mode()
def try_out(contender: Contender, loaded: Loaded) -> ContenderRecord:
    """Run some tokens through a new cache.

    Raises:
        EvalError: one of ours cannot serve the model, which its settings are to blame for.
    """
    tokens = torch.ones(1, TRIED, dtype=torch.long, device=loaded.device)
    record = ContenderRecord(name=contender.name, peak=contender.peak)
    try:
        cache = contender.make()
        for part in (tokens, tokens[:, :1]):
            loaded.model(input_ids=part, past_key_values=cache, use_cache=True)
    except PolicyError as error:
        if contender.peer:
            return record.model_copy(update={"verdict": "cannot run", "reason": one_line(error)})
        raise EvalError(f"{contender.name}: {one_line(error)}") from None
    # Whatever a cache of others raises is its reason.
    except Exception as error:
        if not contender.peer:
            raise
        missing = isinstance(error, ImportError)
        verdict = "not installed" if missing else "cannot run"
        return record.model_copy(update={"verdict": verdict, "reason": one_line(error)})
    return record

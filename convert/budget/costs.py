"""What one combination costs on one GPU: bytes, and bounds on times from bytes and operations."""

from dataclasses import dataclass

from convert.budget.combination import Combination
from convert.budget.gpu import RESERVE, Gpu
from convert.budget.model import Model
from convert.footprint import kv_bytes, kv_per_token, kv_read

CHUNK = 2048
"""Tokens of a prompt that are run at once; the rest waits, so that activations stay small."""
PIECE = 1024
"""Tokens of a compressed cache that attention expands at once."""
LONGEST = 2**30


@dataclass(frozen=True)
class Costs:
    """One combination at one context and batch.

    Attributes:
        combination: What is converted.
        per_token: Cache bytes that one token adds while every layer still keeps it.
        per_layer: The same in one layer.
        per_request: Cache bytes of one sequence of the full context.
        weights: Bytes.
        activations: Peak bytes of a chunked prefill beside weights and cache, an estimate.
        total: Weights, cache of the batch, activations and what a process holds by itself.
        largest_batch: Sequences of this context that fit, 0 if none does.
        longest_context: Tokens that fit at this batch; None without a limit.
        decode_s: Lower bound on a decode step, weights and stored cache over bandwidth; None without one.
        prefill_s: Lower bound on the prefill of one sequence; None without operations per second.
        receptive_field: Tokens over which the last one can learn anything.
    """

    combination: Combination
    per_token: int
    per_layer: int
    per_request: int
    weights: int
    activations: int
    total: int
    largest_batch: int
    longest_context: int | None
    decode_s: float | None
    prefill_s: float | None
    receptive_field: int


def count_costs(model: Model, gpu: Gpu, combination: Combination, context: int, batch: int) -> Costs:
    """Count what a combination costs.

    Args:
        model: The model.
        gpu: Where it is served.
        combination: What is converted.
        context: Tokens of a sequence, prompt and answer.
        batch: Sequences at once.

    Holds: published figures of Llama-2 and Mistral (tests/convert/test_budget.py); cache and weight bytes are
    those of real checkpoints (the same file).
    """
    cache = combination.cache_shape(model)
    fixed = _fixed(model, combination, context)
    request = kv_bytes(cache, context)
    return Costs(
        combination=combination,
        per_token=kv_per_token(cache),
        per_layer=kv_per_token(cache) // model.layers,
        per_request=request,
        weights=combination.weight_bytes(model),
        activations=_activations(model, combination, context),
        total=fixed + batch * request,
        largest_batch=max((gpu.memory - fixed) // request, 0),
        longest_context=_longest(model, gpu, combination, batch),
        decode_s=decode_bound(model, gpu, combination, context, batch),
        prefill_s=None if gpu.flops is None else prefill_flops(model, combination, context) / gpu.flops,
        receptive_field=combination.receptive_field(model, context),
    )


def total_bytes(model: Model, combination: Combination, context: int, batch: int) -> int:
    """Bytes of weights, cache of the batch, activations and what a process holds by itself."""
    cache = kv_bytes(combination.cache_shape(model), context)
    return _fixed(model, combination, context) + batch * cache


def decode_bound(model: Model, gpu: Gpu, combination: Combination, context: int, batch: int) -> float | None:
    """Least seconds of a decode step: weights and stored cache over bandwidth; None without a bandwidth."""
    if gpu.bandwidth is None:
        return None
    read = batch * kv_read(combination.cache_shape(model), context)
    return (combination.weight_bytes(model) + read) / gpu.bandwidth


def prefill_flops(model: Model, combination: Combination, context: int) -> int:
    """Operations of a prompt: two per weight and token, four per query, visible key and number of a head."""
    gone = 2 * (model.kv_heads - combination.kv_heads) * model.head_dim * model.hidden_size * model.layers
    cache = combination.cache_shape(model)
    attention = sum(
        count * visible_pairs(cache.kept.of(layer).most(layer), context) for count, layer in cache.layers()
    )
    return 2 * (model.parameters - gone) * context + 4 * model.heads * model.head_dim * attention


def visible_pairs(slots: int | None, context: int) -> int:
    """Pairs of a query and a key that it sees, in a layer that keeps ``slots`` tokens."""
    kept = context if slots is None else min(slots, context)
    return kept * (kept + 1) // 2 + (context - kept) * kept


def _fixed(model: Model, combination: Combination, context: int) -> int:
    """Bytes of everything but the cache."""
    return RESERVE + combination.weight_bytes(model) + _activations(model, combination, context)


def _activations(model: Model, combination: Combination, context: int) -> int:
    tokens = min(CHUNK, context)
    projections = (2 * model.heads + 2 * combination.kv_heads) * model.head_dim
    widest = max(3 * model.inner_size, projections)
    # A window layer joins its sinks, its last tokens and the chunk; global layers read the cache in place.
    # A compressed cache is expanded a piece at a time.
    slots = [slots or 0 for slots in combination.slots(model)]
    joined = max(*slots, 0 if combination.kept.plain else PIECE)
    keys = 2 * (joined + tokens) * combination.kv_heads * model.head_dim
    return model.element_bytes * (tokens * (2 * model.hidden_size + widest) + keys) + 4 * model.vocabulary


def _longest(model: Model, gpu: Gpu, combination: Combination, batch: int) -> int | None:
    """The longest context that fits, by bisection, because bytes only grow with it."""

    def fits(context: int) -> bool:
        return total_bytes(model, combination, context, batch) <= gpu.memory

    if fits(LONGEST):
        return None
    low, high = 0, LONGEST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low

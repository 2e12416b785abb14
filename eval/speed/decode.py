"""One token against a cache, in one layer: attention alone, and with the write to the cache."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from eval.speed.attention import Contender, check_runs, chosen_backends, own_name
from eval.speed.records import Computes
from eval.speed.reference import Inputs, output_error
from eval.speed.timing import Work
from patches.attention.backends import Backend, attend
from patches.attention.scoring import Scoring
from patches.cache.window import WindowLayer
from patches.frame import Frame, Step

GRAPH_WARM_UP = 3


def decode_contenders(inputs: Inputs, write: bool, names: tuple[str, ...] | None) -> list[Contender]:
    """Everything that attends with one query to what a cache holds after ``inputs.past`` tokens.

    Args:
        inputs: Of the row; one query.
        write: Whether the write of the new token is part of the work.
        names: Backends, or None for all.
    """
    makers: list[tuple[str, Computes, Callable[[], Callable[[], Tensor]]]] = [
        (own_name(backend), "window + sinks", partial(_own, backend, inputs, write))
        for backend in chosen_backends(names)
    ]
    makers += [
        ("sdpa, transformers' sliding cache", "window", partial(_sliding, inputs, write)),
        ("sdpa, transformers' dynamic cache", "dense", partial(_dynamic, inputs, write)),
    ]
    return [
        Contender(name, computes, partial(_prepare, make, inputs, computes, write))
        for name, computes, make in makers
    ]


def _prepare(
    make: Callable[[], Callable[[], Tensor]], inputs: Inputs, computes: Computes, write: bool
) -> tuple[Work, float]:
    """The work of one run, and the error of its result."""
    decode = make()
    with torch.no_grad():
        error = output_error(decode(), inputs, computes)
    # Writes advance a counter on the host, which a graph would not replay.
    if inputs.query.device.type == "cuda" and not write:
        return captured(decode), error

    @torch.no_grad()
    def work() -> Tensor:
        return decode()

    return work, error


@torch.no_grad()
def captured(work: Work) -> Work:
    """A CUDA graph of ``work``, whose replay has no launch costs of the host in it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(GRAPH_WARM_UP):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def _own(backend: Backend, inputs: Inputs, write: bool) -> Callable[[], Tensor]:
    layer = WindowLayer(inputs.window, inputs.sinks)
    before, new = _split(inputs)
    layer.update(*before)
    scoring = Scoring(inputs.scale)
    frame = Frame(Step(inputs.past), 1, inputs.window, inputs.sinks)
    check_runs(backend, inputs.query, frame, scoring)
    if not write:
        key, value = layer.update(*new)
        return lambda: backend.attend(inputs.query, key, value, frame, scoring)[0]

    def step() -> Tensor:
        frame = Frame(Step(layer.get_seq_length()), 1, inputs.window, inputs.sinks)
        return attend(backend, inputs.query, *layer.update(*new, in_pass=True), frame, scoring)[0]

    return step


def _sliding(inputs: Inputs, write: bool) -> Callable[[], Tensor]:
    return _stock(DynamicSlidingWindowLayer(sliding_window=inputs.window), inputs, write)


def _dynamic(inputs: Inputs, write: bool) -> Callable[[], Tensor]:
    return _stock(DynamicLayer(), inputs, write)


def _stock(layer: DynamicLayer, inputs: Inputs, write: bool) -> Callable[[], Tensor]:
    """A cache of transformers, which joins its tensors with the new token at every step."""
    before, new = _split(inputs)
    layer.update(*before)
    held = layer.keys, layer.values
    grouped = inputs.query.shape[1] != inputs.key.shape[1]

    def attend(key: Tensor, value: Tensor) -> Tensor:
        return scaled_dot_product_attention(inputs.query, key, value, enable_gqa=grouped)

    if not write:
        key, value = layer.update(*new)
        return lambda: attend(key, value)

    def step() -> Tensor:
        # Every run is the same step: without this the dynamic cache would grow from run to run.
        layer.keys, layer.values = held
        return attend(*layer.update(*new))

    return step


def _split(inputs: Inputs) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Keys and values of the past, and of the new token."""
    past = inputs.past
    return (
        (inputs.key[:, :, :past], inputs.value[:, :, :past]),
        (inputs.key[:, :, past:], inputs.value[:, :, past:]),
    )

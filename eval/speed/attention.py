"""Whole-prompt attention of one layer: every backend, and what a user would otherwise pick."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from eval.speed.records import OWN, Computes, Unable
from eval.speed.reference import Inputs, gradient_error, output_error
from eval.speed.timing import Work
from patches.attention.backends import BACKENDS, Backend
from patches.attention.scoring import Scoring
from patches.frame import Frame, Step

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
SHARE = 0.6
"""Of the free memory that a contender may take."""


@dataclass(frozen=True)
class Contender:
    """One way to do the work of a row.

    Attributes:
        name: In the table.
        computes: Which keys a query meets.
        prepare: Makes the work ready and checks one result of it: ``(work, relative error)``.
    """

    name: str
    computes: Computes
    prepare: Callable[[], tuple[Work, float]]


def chosen_backends(names: tuple[str, ...] | None) -> list[Backend]:
    """The backends of the registry in its order, narrowed to ``names``."""
    return [backend for name, backend in BACKENDS.items() if names is None or name in names]


def own_name(backend: Backend) -> str:
    """What a backend is called in the table."""
    return f"{OWN} {backend.name}"


def prompt_contenders(inputs: Inputs, backward: bool, names: tuple[str, ...] | None) -> list[Contender]:
    """Everything that attends to a whole prompt, Headroom's backends first.

    Args:
        inputs: Of the row; nothing is past.
        backward: Whether gradients of query, key and value are part of the work.
        names: Backends, or None for all.
    """
    makers: list[tuple[str, Computes, Callable[[], Attend]]] = [
        (own_name(backend), "window + sinks", partial(_own, backend, inputs))
        for backend in chosen_backends(names)
    ]
    makers += [
        ("sdpa, dense causal", "dense", lambda: _dense),
        ("sdpa, full mask", "window + sinks", partial(_masked, inputs, backward)),
        ("flex, compiled", "window + sinks", partial(_flex, inputs)),
        ("FlashAttention-2, window alone", "window", partial(_flash_window, inputs)),
    ]
    return [
        Contender(name, computes, partial(_prepare, make, inputs, computes, backward))
        for name, computes, make in makers
    ]


def _prepare(
    make: Callable[[], Attend], inputs: Inputs, computes: Computes, backward: bool
) -> tuple[Work, float]:
    """The work of one run, and the error of its result."""
    attend = make()
    if not backward:

        @torch.no_grad()
        def forward() -> Tensor:
            return attend(inputs.query, inputs.key, inputs.value)

        return forward, output_error(forward(), inputs, computes)
    leaves = [t.detach().requires_grad_() for t in (inputs.query, inputs.key, inputs.value)]
    grad = torch.randn_like(inputs.query)

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(attend(*leaves), leaves, grad)

    return both, gradient_error(attend(*leaves), leaves, inputs, computes)


def _own(backend: Backend, inputs: Inputs) -> Attend:
    frame = Frame(Step(0), inputs.query.shape[2], inputs.window, inputs.sinks)
    scoring = Scoring(inputs.scale)
    check_runs(backend, inputs.query, frame, scoring)
    if backend.name == "eager":
        batch, heads, tokens, _ = inputs.query.shape
        # Scores and weights in float32, and two copies that masking makes.
        check_fits(4 * 4 * batch * heads * tokens**2, inputs.query.device)
    return lambda query, key, value: backend.attend(query, key, value, frame, scoring)[0]


def check_runs(backend: Backend, query: Tensor, frame: Frame, scoring: Scoring) -> None:
    """Ask a backend whether it serves a call.

    Raises:
        Unable: with its reason.
    """
    reason = backend.missing() or backend.refusal(query, frame, scoring)
    if reason is not None:
        raise Unable(reason)


def _dense(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    grouped = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=grouped)


def _masked(inputs: Inputs, backward: bool) -> Attend:
    """What transformers does with a window in its ``sdpa``, here with sinks in the same mask."""
    tokens, device = inputs.query.shape[2], inputs.query.device
    grouped = inputs.query.shape[1] != inputs.key.shape[1]
    # SDPA turns the boolean mask into numbers; its backward may form the scores of all heads.
    bytes_each = 1 + 4 + (8 * inputs.query.shape[1] * inputs.query.shape[0] if backward else 4)
    check_fits(bytes_each * tokens**2, device)
    row = torch.arange(tokens, device=device)
    mask = (row[:, None] - row < inputs.window) | (row < inputs.sinks)
    mask &= row <= row[:, None]
    return lambda query, key, value: scaled_dot_product_attention(
        query, key, value, mask[None, None], enable_gqa=grouped
    )


def _flex(inputs: Inputs) -> Attend:
    """FlexAttention as its documentation shows it; making its block mask is not in the time."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    window, sinks, tokens = inputs.window, inputs.sinks, inputs.query.shape[2]

    def seen(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (j <= i) & ((i - j < window) | (j < sinks))

    # Every row of the table is a size of its own, and the compiler gives up after some in one function.
    torch.compiler.reset()
    build: Any = torch.compile(create_block_mask)
    blocks = build(seen, None, None, tokens, tokens, device=inputs.query.device.type)
    compiled: Any = torch.compile(flex_attention, dynamic=False)
    grouped = inputs.query.shape[1] != inputs.key.shape[1]
    return lambda query, key, value: compiled(query, key, value, block_mask=blocks, enable_gqa=grouped)


def _flash_window(inputs: Inputs) -> Attend:
    """PyTorch's FlashAttention-2 with a window and no sinks: the floor of what adds sinks to it."""
    reason = BACKENDS["flash"].missing()
    if reason is not None:
        raise Unable(reason)
    tokens = inputs.query.shape[2]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = (tensor.transpose(1, 2) for tensor in (query, key, value))
        output: Tensor = torch.ops.aten._flash_attention_forward(
            q, k, v, None, None, tokens, tokens, 0.0, True, False,
            scale=inputs.scale, window_size_left=inputs.window - 1, window_size_right=0,
        )[0]  # fmt: skip
        return output.transpose(1, 2)

    return attend


def check_fits(needed_bytes: int, device: torch.device, advice: str = "") -> None:
    """Keep away from what would run the machine out of memory.

    Raises:
        Unable: more than a share of the free memory is needed.
    """
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    elif "SC_AVPHYS_PAGES" in os.sysconf_names:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        return
    if needed_bytes > SHARE * free:
        wanted = f"needs {needed_bytes / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
        raise Unable(f"{wanted}; {advice}" if advice else wanted)

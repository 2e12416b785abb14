"""The backends by name, how a user's ``attn_implementation`` maps to one, and which serves a call."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.utils import logging

from patches.attention import decode, eager, flash, flex, fused, sdpa, stored
from patches.attention.documents import Attend, attend_documents
from patches.attention.scoring import Scoring
from patches.copies import TAG
from patches.frame import Frame, Step
from patches.kernels import language
from patches.policy import PolicyError
from patches.sink_logits import sink_logits_of

logger = logging.get_logger("headroom.patches")

PREFIX = f"windowed_{TAG}"
AUTO = PREFIX + "auto"


def _never(*_: object) -> None:
    return None


@dataclass(frozen=True)
class Backend:
    """One way to compute window + sink attention.

    Attributes:
        name: What it is called, without the prefix.
        requested_as: The ``attn_implementation`` of transformers that asks for it.
        attend: ``(query, key, value, frame, scoring) -> (output, weights or None)``.
        missing: Why this machine cannot run it at all, or None.
        refusal: ``(query, frame, scoring)`` to why it cannot serve this call, or None.
        needs: What it runs on, in words.
        automatic: Whether it may be chosen without being asked for.
        decodes: Whether the kernel for decoding takes calls from it.
    """

    name: str
    requested_as: str
    attend: Attend
    needs: str
    missing: Callable[[], str | None] = _never
    refusal: Callable[[Tensor, Frame, Scoring], str | None] = _never
    automatic: bool = True
    decodes: bool = False


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend(
            "flash",
            "flash_attention_2",
            decode.before(flash.attend),
            "CUDA 8.0 or later, fp16/bf16",
            flash.missing,
            decode.unless(flash.refusal),
            decodes=True,
        ),
        Backend(
            "triton",
            "triton",
            decode.before(fused.attend),
            "CUDA 8.0 or later, triton",
            fused.missing,
            decode.unless(fused.refusal),
            # Triton's interpreter is for tests that ask for it.
            automatic=not language.interpreting(),
            decodes=True,
        ),
        Backend("sdpa", "sdpa", sdpa.attend, "any device"),
        Backend("eager", "eager", eager.attend, "any device; the reference, returns weights"),
        Backend(
            "flex",
            "flex_attention",
            flex.attend,
            "CUDA; CPU forward; compiled",
            flex.missing,
            flex.refusal,
            automatic=False,
        ),
    )
}
"""In the order of preference; the automatic choice is the first that does not refuse."""


def resolve(requested: str | None) -> str:
    """The registered name for what a user passed as ``attn_implementation``.

    Args:
        requested: A name of transformers (``eager``, ``sdpa``, ``flash_attention_2``), one of ours, or None.

    Raises:
        PolicyError: no backend answers to it, or its backend cannot run on this machine.
    """
    if requested is None or requested == AUTO:
        return AUTO
    for backend in BACKENDS.values():
        if requested in (backend.requested_as, PREFIX + backend.name):
            reason = backend.missing()
            if reason is None:
                return PREFIX + backend.name
            raise PolicyError(f"attn_implementation={requested!r} cannot run here: {reason}")
    known = ", ".join(backend.requested_as for backend in BACKENDS.values())
    raise PolicyError(
        f"attn_implementation={requested!r} has no backend with a window and sinks, and dense attention "
        f"would be another model (choose {known}, or leave it out)"
    )


def in_force(name: str | None) -> bool:
    """Whether ``name`` is an attention implementation that obeys the window."""
    return name == AUTO or name in {PREFIX + backend for backend in BACKENDS}


def _attention(chosen: Backend | None) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The function that transformers calls inside every attention module."""

    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        scaling: float | None = None,
        dropout: float = 0.0,
        softcap: float | None = None,
        s_aux: Tensor | None = None,
        window_step: Step | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor | None]:
        policy = None if window_step is None else window_step.policy
        if window_step is None or policy is None:
            raise PolicyError(
                "windowed attention was called outside a windowed model, which alone knows where the rows "
                "begin; load the checkpoint with AutoModelForCausalLM after `import patches`"
            )
        step = window_step.to(query.device)
        frame = Frame(step, query.shape[2], policy.window_of(cast(int, module.layer_idx)), policy.sinks)
        scoring = Scoring(
            scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
            dropout=dropout,
            softcap=softcap,
            sink_logits=sink_logits_of(module, policy, s_aux),
            sink_query=None if step.turn is None or frame.window is None else step.turn.apply(query),
        )
        backend = _serving(chosen, query, frame, scoring)
        if step.documents is None:
            output, weights = attend(backend, query, key, value, frame, scoring)
        else:
            output = attend_documents(backend.attend, query, key, value, frame, scoring, step.documents)
            weights = None
        return output.transpose(1, 2).contiguous(), weights

    return attention


def attend(
    backend: Backend, query: Tensor, key: Tensor, value: Tensor, frame: Frame, scoring: Scoring
) -> tuple[Tensor, Tensor | None]:
    """Attend to what a layer of the cache handed out.

    Args:
        backend: Of those that do not refuse.
        query: ``[B, H, T, D]``.
        key: ``[B, K, N, D]``, ``StoredTokens`` or ``UnwrittenTokens``, like ``value``.
        value: the same.
        frame: Where they stand.
        scoring: How products become weights.

    Returns:
        Output ``[B, H, T, D]`` and the weights, or None.
    """
    # Not by their classes: a checkpoint's own copy of this code has others of the same names.
    held = getattr(key, "stored", None)
    if held is not None:
        return stored.attend(query, held, frame, scoring, backend.attend), None
    unwritten = None if torch.compiler.is_compiling() else getattr(key, "unwritten", None)
    if unwritten is not None:
        if backend.decodes and decode.refusal(query, frame, scoring) is None:
            return decode.attend_and_write(query, unwritten, frame, scoring), None
        key, value = unwritten.write()
    return backend.attend(query, key, value, frame, scoring)


def _serving(chosen: Backend | None, query: Tensor, frame: Frame, scoring: Scoring) -> Backend:
    """The chosen backend, or the first that can when it refuses or none was chosen."""
    if chosen is not None:
        reason = chosen.refusal(query, frame, scoring)
        if reason is None:
            return chosen
        logger.warning_once(f"{chosen.name} cannot serve this call ({reason}); another backend does")
    able = (BACKENDS[name] for name in _able())
    return next(backend for backend in able if backend.refusal(query, frame, scoring) is None)


@torch.compiler.assume_constant_result
def _able() -> tuple[str, ...]:
    """What may be chosen automatically on this machine; torch.compile cannot follow how that is found out."""
    return tuple(
        name for name, backend in BACKENDS.items() if backend.automatic and backend.missing() is None
    )


def _no_mask(*_: object, **__: object) -> None:
    """No tensor: the mask follows from the positions that the step carries."""


def register() -> None:
    """Make the backends known to transformers, each with its mask function."""
    for name, backend in {
        AUTO: None,
        **{PREFIX + name: backend for name, backend in BACKENDS.items()},
    }.items():
        AttentionInterface.register(name, _attention(backend))
        AttentionMaskInterface.register(name, _no_mask)

"""FlashAttention-2, the one inside PyTorch, for the window; an epilogue in Triton for the sinks.

The sinks are not a second FlashAttention call: its right window is dropped when it reaches the key length
(Dao-AILab/flash-attention issue 895).
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.utils import logging

from patches.attention.documents import attend_documents
from patches.attention.scoring import Scoring
from patches.attention.two_part import Epilogue, WindowKernel, attend_parts
from patches.frame import Frame
from patches.kernels import flash_attention_2, language, plain_sinks, sinks
from patches.kernels.flash_attention_2 import HEAD_DIM_MAX, HEAD_DIM_STEP

logger = logging.get_logger("headroom.patches")

FLASH = WindowKernel(flash_attention_2.forward, flash_attention_2.backward)
PLAIN = Epilogue(plain_sinks.forward, plain_sinks.backward)
TRITON = Epilogue(sinks.forward, sinks.backward)


def missing() -> str | None:
    """Why this machine cannot run FlashAttention-2, or None."""
    return flash_attention_2.missing()


def refusal(query: Tensor, frame: Frame, scoring: Scoring) -> str | None:
    """Why FlashAttention-2 cannot serve this call, or None."""
    if query.device.type != "cuda":
        return f"the tensors are on {query.device.type}"
    if query.dtype not in (torch.float16, torch.bfloat16):
        return f"it needs float16 or bfloat16, not {str(query.dtype).removeprefix('torch.')}"
    if query.shape[-1] > HEAD_DIM_MAX:
        return f"head_dim={query.shape[-1]} is above {HEAD_DIM_MAX}"
    if frame.ragged and (frame.layout != "whole" or frame.step.past):
        return "rows are padded"
    if scoring.softcap is not None:
        return "PyTorch's FlashAttention-2 has no softcap"
    return "it has no attention dropout" if scoring.dropout else None


def attend(query: Tensor, key: Tensor, value: Tensor, frame: Frame, scoring: Scoring) -> tuple[Tensor, None]:
    """Attend on CUDA; arguments and output as ``patches.attention.eager.attend``, without the weights.

    Holds: the two parts and their gradient equal the reference, with any window kernel
    (tests/patches/test_two_part.py), and FlashAttention-2 is such a kernel (test_flash.py, marker ``gpu``).
    """
    if frame.ragged:
        rows = frame.step.rows(frame.tokens)
        return attend_documents(attend, query, key, value, frame, scoring, rows), None
    dim = query.shape[-1]
    if extra := -dim % HEAD_DIM_STEP:
        # Zeros change no product; the scale is that of the true head_dim.
        query, key, value = (pad(tensor, (0, extra)) for tensor in (query, key, value))
        if scoring.sink_query is not None:
            scoring = replace(scoring, sink_query=pad(scoring.sink_query, (0, extra)))
    output = attend_parts(query, key, value, frame, scoring, FLASH, _epilogue())
    return output[..., :dim], None


def _epilogue() -> Epilogue:
    """The Triton kernels; without Triton their plain twins."""
    reason = language.missing()
    if reason is None:
        return TRITON
    logger.warning_once(f"the sinks of flash attention take several passes over memory: {reason}")
    return PLAIN

"""Queries, keys and values to time on: fresh random ones, or those of a checkpoint reading text."""

from functools import cached_property
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from eval.checkpoint import one_line
from eval.corpus import synthetic_text
from eval.errors import EvalError
from eval.speed.records import MODEL, Ask
from eval.speed.reference import Inputs

READ_TOKENS = 2048
"""Tokens of text that a checkpoint reads; longer inputs repeat what it made of them."""


class Source:
    """Makes the inputs of a row."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.generator = torch.Generator(ask.device).manual_seed(ask.seed)

    @cached_property
    def real(self) -> tuple[Tensor, ...] | None:
        """What the checkpoint made of the text, if there is one: see ``_read``."""
        return None if self.ask.checkpoint is None else _read(self.ask, self.ask.checkpoint)

    @property
    def origin(self) -> str:
        """In words, for the report."""
        parts = []
        if set(self.ask.phases) != {MODEL}:
            parts.append(self._drawn())
        if MODEL in self.ask.phases:
            parts.append("whole models go on from random caches")
        return "; ".join(parts)

    def _drawn(self) -> str:
        if self.real is None:
            return "normally distributed, drawn anew for every row"
        tokens = self.real[0].shape[1]
        return f"of the checkpoint's middle layer reading {tokens} tokens of text, repeated to the length"

    def inputs(self, batch: int, past: int, tokens: int) -> Inputs:
        """One attention call.

        Args:
            batch: ``B``.
            past: Tokens before it.
            tokens: ``T``.
        """
        ask, total = self.ask, past + tokens
        counts = (ask.shape.heads, ask.shape.kv_heads, ask.shape.kv_heads)
        query, key, value = (self._draw(part, batch, heads, total) for part, heads in enumerate(counts))
        return Inputs(query[:, :, past:].contiguous(), key, value, past, ask.window, ask.sinks)

    def _draw(self, part: int, batch: int, heads: int, tokens: int) -> Tensor:
        ask = self.ask
        if self.real is None:
            size = (batch, heads, tokens, ask.shape.head_dim)
            return torch.randn(size, generator=self.generator, dtype=ask.dtype, device=ask.device)
        states = self.real[part]
        repeats = -(-tokens // states.shape[1])
        return states.repeat(batch, 1, repeats, 1)[:, :, :tokens].contiguous()


@torch.inference_mode()
def _read(ask: Ask, path: str) -> tuple[Tensor, ...]:
    """Rotated queries, keys and values of the middle layer, ``[H or K, n, D]`` each.

    Raises:
        EvalError: it does not load, or does not attend through the interface of transformers.
    """
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=ask.dtype)
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (ValueError, OSError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise EvalError(f"checkpoint {path!r} does not load: {one_line(error)}") from None
    model = model.to(ask.device).eval()
    allowed = getattr(model.config, "max_position_embeddings", None) or READ_TOKENS
    ids = tokenizer(synthetic_text(), return_tensors="pt").input_ids
    ids = ids[:, : min(READ_TOKENS, allowed, max(ask.lengths))].to(ask.device)
    caught: list[tuple[Tensor, ...]] = []
    name = model.config._attn_implementation
    attend = ALL_ATTENTION_FUNCTIONS.get(name)
    if attend is None:
        raise EvalError(f"{path!r}: its attention {name!r} is not one that its inputs can be read from")

    def catch(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        caught.append((query, key, value))
        return attend(module, query, key, value, *args, **kwargs)

    ALL_ATTENTION_FUNCTIONS[name] = catch
    try:
        model.base_model(input_ids=ids, use_cache=False)
    finally:
        ALL_ATTENTION_FUNCTIONS[name] = attend
    # Inference tensors could not take part in a backward pass.
    with torch.inference_mode(False):
        return tuple(tensor[0].clone() for tensor in caught[len(caught) // 2])

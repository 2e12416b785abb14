"""Greedy continuations, each with the cache that ``generate`` builds for itself, or one that is given."""

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from eval.checkpoint import Loaded


@torch.inference_mode()
def continue_greedily(
    loaded: Loaded, ids: Tensor, tokens: int, to_the_end: bool = False, cache: Any = None
) -> tuple[Tensor, Any]:
    """Generate after prompts of one length.

    Args:
        ids: ``[B, T]``.
        tokens: At most this many per row.
        to_the_end: Go on past the end of a text until there are ``tokens``, and keep the logits.
        cache: Of a part of the prompts, which has been read; None: one that ``generate`` makes.

    Returns:
        ``[B, generated]`` tokens, and for each step its ``[B, V]`` logits, or None.
    """
    ids = ids.to(loaded.device)
    end = loaded.tokenizer.eos_token_id
    pad = end if loaded.tokenizer.pad_token_id is None else loaded.tokenizer.pad_token_id
    config = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0 if pad is None else pad,
        eos_token_id=None if to_the_end else end,
        return_dict_in_generate=True,
        output_logits=to_the_end,
    )
    output = loaded.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        generation_config=config,
        **({} if cache is None else {"past_key_values": cache}),
    )
    return output.sequences[:, ids.shape[1] :], output.logits if to_the_end else None

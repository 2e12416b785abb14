"""Greedy continuations, each with the cache that ``generate`` builds for itself, or one that is given.

The weights are measured, not how somebody would chat with them: of a checkpoint's ``generation_config.json``
(sampling, penalties, further ends of a text, a kind of cache) nothing is used.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteriaList

from eval.checkpoint import Loaded


@torch.inference_mode()
def generate_greedily(
    loaded: Loaded,
    ids: Tensor,
    tokens: int,
    end: int | None = None,
    cache: Any = None,
    logits: bool = False,
    criteria: StoppingCriteriaList | None = None,
) -> Any:
    """``generate`` by the arguments alone, without the model's own generation settings.

    Args:
        ids: ``[B, T]``.
        tokens: At most this many per row.
        end: The token after which a row ends; None: every row gets all ``tokens``.
        cache: Of a part of the prompts, which has been read; None: one that ``generate`` makes.
        logits: Whether to keep those of every step.
        criteria: Called after every token.

    Returns:
        What ``generate`` returns in a mapping: ``sequences``, ``past_key_values`` and perhaps ``logits``.

    Holds: the settings of the checkpoint change nothing (tests/eval/test_generation.py).
    """
    model, ids = loaded.model, ids.to(loaded.device)
    pad = loaded.tokenizer.pad_token_id
    pad = loaded.tokenizer.eos_token_id if pad is None else pad
    config = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0 if pad is None else pad,
        eos_token_id=end,
        return_dict_in_generate=True,
        output_logits=logits,
    )
    # ``generate`` fills from the model's settings whatever the given ones leave open.
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        return model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            stopping_criteria=criteria,
            **({} if cache is None else {"past_key_values": cache}),
        )
    finally:
        model.generation_config = own


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
    end = None if to_the_end else loaded.tokenizer.eos_token_id
    output = generate_greedily(loaded, ids, tokens, end, cache, logits=to_the_end)
    return output.sequences[:, ids.shape[1] :], output.logits if to_the_end else None

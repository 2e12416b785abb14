"""Hundreds of tokens, far past the window, each of them the one that a masked dense model would write."""

import pytest
import torch

import patches
from tests.patches.tiny import SINKS, VOCAB, WINDOW, masked_logits, windowed_model

TOKENS = 301


def scattered(family: str, **options: object):
    """A tiny model in float64 whose biases and norms are no longer what they all start from."""
    model = windowed_model(family, **options).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return model


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "phi", "gemma2"])
@pytest.mark.parametrize("length", [SINKS + WINDOW - 6, SINKS + WINDOW + 29], ids=["short", "long"])
def test_every_token_is_the_masked_dense_models_own(family, length):
    # Tied to its embeddings, a random model writes one token for ever.
    model = scattered(family, tie_word_embeddings=False)
    prompt = torch.randint(3, VOCAB, (1, length), generator=torch.Generator().manual_seed(0))
    cache = patches.WindowedCache(model.config)
    got = model.generate(
        prompt,
        past_key_values=cache,
        max_new_tokens=TOKENS,
        do_sample=False,
        attention_mask=torch.ones_like(prompt),
        return_dict_in_generate=True,
        output_logits=True,
    )
    want = masked_logits(model, got.sequences)[0, length - 1 : -1]
    assert got.sequences.shape[1] == length + TOKENS
    assert got.sequences[0, length:].tolist() == want.argmax(-1).tolist()
    # The softmax of transformers' dense attention is in float32 whatever the model is in.
    torch.testing.assert_close(torch.cat(got.logits), want.float(), atol=2e-5, rtol=2e-5)
    assert len(set(got.sequences[0, -100:].tolist())) > 5
    assert cache.layers[0].stores[0].shape[2] == SINKS + WINDOW

"""The static cache under CUDA graphs: captured by hand, and by what generate compiles."""

import pytest
import torch

import patches
from tests.patches.test_static import batch, run
from tests.patches.tiny import windowed_model


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_decode_step_replays_as_a_cuda_graph(padded, dtype):
    model = windowed_model("llama", head_dim=16).to("cuda", dtype)
    tokens, mask = (tensor.cuda() for tensor in batch(padded))
    want = run(model, patches.WindowedCache(model.config, max_length=60), tokens, mask, 30)
    cache = patches.WindowedCache(model.config, max_length=60)
    token, graph = torch.zeros(3, 1, dtype=torch.long, device="cuda"), torch.cuda.CUDAGraph()
    with torch.no_grad():
        logits = model(tokens, attention_mask=mask, past_key_values=cache).logits[:, -1:]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            model(token, past_key_values=cache)
        torch.cuda.current_stream().wait_stream(side)
        cache.progress.set(tokens.shape[1])
        with torch.cuda.graph(graph):
            replayed = model(token, past_key_values=cache).logits
        chosen = []
        for _ in range(30):
            chosen.append(logits.argmax(-1))
            token.copy_(chosen[-1])
            graph.replay()
            logits = replayed
    assert cache.get_seq_length() == tokens.shape[1] + 30
    assert torch.cat(chosen, dim=1).tolist() == want[0].tolist()


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("padded", [False, True])
def test_generate_on_cuda_compiles_by_itself(padded):
    model = windowed_model("llama", head_dim=16).cuda()
    tokens, mask = (tensor.cuda() for tensor in batch(padded))
    options = {"attention_mask": mask, "max_new_tokens": 30, "do_sample": False}
    want = model.generate(tokens, **options)
    got = model.generate(tokens, cache_implementation="static", **options)
    assert got.tolist() == want.tolist()

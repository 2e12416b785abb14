"""The fused kernels as a backend: by which name they go, and under torch.compile."""

import pytest
import torch

from patches.attention import fused
from patches.attention.backends import BACKENDS, resolve
from patches.attention.scoring import Scoring
from patches.frame import Frame, Step
from patches.kernels import language
from tests.patches.tiny import windowed_model

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_kernels = pytest.mark.skipif(fused.missing() is not None, reason=f"fused kernels: {fused.missing()}")


def test_a_machine_without_a_gpu_is_told_so(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert fused.missing() == "there is no CUDA device"


@needs_kernels
def test_it_goes_by_its_name_and_stands_between_flash_and_sdpa():
    assert resolve("triton") == resolve("windowed_triton") == "windowed_triton"
    assert list(BACKENDS)[:3] == ["flash", "triton", "sdpa"]
    assert BACKENDS["triton"].automatic == (not language.interpreting())


@needs_kernels
def test_a_compiled_call_is_one_graph_with_the_same_gradients():
    query, key, value = (torch.randn(1, heads, 12, 16, device=DEVICE) for heads in (2, 1, 1))

    def loss(query, key, value):
        frame = Frame(Step(0), 12, 5, 2)
        return fused.attend(query * 2, key, value, frame, Scoring(0.25))[0].square().sum()

    gradients = []
    for function in (loss, torch.compile(loss, backend="aot_eager", fullgraph=True)):
        inputs = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
        gradients.append(torch.autograd.grad(function(*inputs), inputs))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@needs_kernels
@pytest.mark.parametrize("extras", [False, True])
def test_the_operators_say_what_they_do(extras):
    from patches.kernels import operator

    query, key = (torch.randn(1, 6, heads, 16, device=DEVICE).transpose(1, 2) for heads in (2, 1))
    turned, logits = (torch.randn_like(query), torch.randn(2, device=DEVICE)) if extras else (None, None)
    inputs = [
        tensor if tensor is None else tensor.requires_grad_() for tensor in (query, key, turned, logits)
    ]
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    arguments = (inputs[0], inputs[1], inputs[1].detach(), *inputs[2:], 2, 0, 4, 0, 0.25, 0.0)
    torch.library.opcheck(operator.attend, arguments, test_utils=checks)


@needs_kernels
def test_a_model_answers_as_with_the_reference():
    model = windowed_model("llama").to(DEVICE)
    tokens = torch.randint(0, model.config.vocab_size, (1, 20), device=DEVICE)
    answers = []
    for name in ("eager", "triton"):
        model.set_attn_implementation(name)
        answers.append(model(tokens).logits)
    torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-4)

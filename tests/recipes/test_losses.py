"""The losses say what they are named after, whatever the chunks."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from recipes.uptrain import distillation
from recipes.uptrain.distillation import AttentionOutputs, attention_distance, distillation_losses
from recipes.uptrain.packing import IGNORED


def draw(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(2, 9, 11, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(0, 11, (2, 9), generator=generator)
    labels[1, 6:] = IGNORED
    return student.requires_grad_(), teacher, labels


def test_losses_equal_the_formulas():
    student, teacher, labels = draw(0)
    kl, ce = distillation_losses(student, teacher, labels)
    p, log_p = teacher.softmax(-1), teacher.log_softmax(-1)
    log_q = student.log_softmax(-1)
    places = [(b, t) for b in range(2) for t in range(8) if labels[b, t + 1] != IGNORED]
    wanted_kl = sum((p[b, t] * (log_p[b, t] - log_q[b, t])).sum() for b, t in places) / len(places)
    wanted_ce = -sum(log_q[b, t, labels[b, t + 1]] for b, t in places) / len(places)
    assert len(places) == 13
    assert kl.item() == pytest.approx(wanted_kl.item(), rel=1e-5)
    assert ce.item() == pytest.approx(wanted_ce.item(), rel=1e-5)


def test_chunks_change_neither_value_nor_gradient(monkeypatch):
    values, grads = [], []
    for chunk in (1024, 4):
        monkeypatch.setattr(distillation, "CHUNK", chunk)
        student, teacher, labels = draw(1)
        kl, ce = distillation_losses(student, teacher, labels)
        (kl + 2 * ce).backward()
        values.append((kl.item(), ce.item()))
        grads.append(student.grad)
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    torch.testing.assert_close(grads[0], grads[1])


def test_a_teacher_teaches_itself_nothing():
    student, _, labels = draw(2)
    kl, _ = distillation_losses(student, student.detach(), labels)
    assert kl.item() == pytest.approx(0, abs=1e-6)


def test_attention_distance_is_relative_and_ignores_padding():
    layers = [torch.randn(2, 5, 4) for _ in range(2)]
    counted = torch.ones(2, 5)
    counted[1, 3:] = 0
    noise = [layer.clone() for layer in layers]
    for layer in noise:
        layer[1, 3:] += 7
    assert attention_distance(noise, layers, counted).item() == 0
    assert attention_distance([0 * layer for layer in layers], layers, counted).item() == pytest.approx(1)
    assert attention_distance([layers[0] / 2, layers[1]], layers, counted).item() == pytest.approx(0.125)


def test_attention_outputs_are_those_that_the_residual_receives():
    config = LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    model = LlamaForCausalLM(config).eval()
    watch = AttentionOutputs(model)
    tokens = torch.arange(6)[None]
    model(tokens)
    first, second = watch.take()
    assert first.shape == second.shape == (1, 6, 16) and not torch.equal(first, second)
    torch.testing.assert_close(
        first,
        model.model.layers[0].self_attn(
            model.model.layers[0].input_layernorm(model.model.embed_tokens(tokens)),
            position_embeddings=model.model.rotary_emb(first, torch.arange(6)[None]),
        )[0],
    )
    for layer in reversed(model.model.layers):
        layer(torch.zeros(1, 6, 16), position_embeddings=model.model.rotary_emb(first, torch.arange(6)[None]))
    model(tokens)
    assert torch.equal(watch.take()[0], first)

"""The losses say what they are named after, whatever the chunks."""

import pytest
import torch

from recipes.uptrain import distillation
from recipes.uptrain.distillation import distillation_losses, hidden_distance
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


def test_hidden_distance_is_relative_and_ignores_padding_and_embeddings():
    layers = [torch.randn(2, 5, 4) for _ in range(3)]
    counted = torch.ones(2, 5)
    counted[1, 3:] = 0
    noise = [layer.clone() for layer in layers]
    noise[0] += 9
    for layer in noise[1:]:
        layer[1, 3:] += 7
    assert hidden_distance(noise, layers, counted).item() == 0
    assert hidden_distance([0 * layer for layer in layers], layers, counted).item() == pytest.approx(1)
    halved = [layers[0], layers[1] / 2, layers[2]]
    assert hidden_distance(halved, layers, counted).item() == pytest.approx(0.125)

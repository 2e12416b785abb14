"""The losses say what they are named after, whatever the pieces."""

import pytest
import torch

from recipes.uptrain import distillation
from recipes.uptrain.distillation import (
    Predictions,
    TopTokens,
    attention_distance,
    distillation_losses,
    top_tokens,
)
from recipes.uptrain.packing import IGNORED
from tests.patches.test_memory import allocations, peak


def draw(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (2 * torch.randn(2, 9, 11, generator=generator) for _ in range(2))
    labels = torch.randint(0, 11, (2, 9), generator=generator)
    labels[1, 6:] = IGNORED
    return student.requires_grad_(), teacher, labels


def losses(student, teacher, labels, **options):
    given = None if teacher is None else Predictions.of_logits(teacher)
    return distillation_losses(Predictions.of_logits(student), given, labels, **options)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_losses_equal_the_formulas(temperature):
    student, teacher, labels = draw(0)
    kl, ce = losses(student, teacher, labels, temperature=temperature)
    p, log_p = (teacher / temperature).softmax(-1), (teacher / temperature).log_softmax(-1)
    log_q, log_likely = (student / temperature).log_softmax(-1), student.log_softmax(-1)
    places = [(b, t) for b in range(2) for t in range(8) if labels[b, t + 1] != IGNORED]
    wanted_kl = sum((p[b, t] * (log_p[b, t] - log_q[b, t])).sum() for b, t in places) / len(places)
    wanted_ce = -sum(log_likely[b, t, labels[b, t + 1]] for b, t in places) / len(places)
    assert len(places) == 13
    assert kl.item() == pytest.approx(temperature**2 * wanted_kl.item(), rel=1e-5)
    assert ce.item() == pytest.approx(wanted_ce.item(), rel=1e-5)


@pytest.mark.parametrize("top_k", [None, 3])
def test_pieces_change_neither_value_nor_gradient(monkeypatch, top_k):
    values, grads = [], []
    for scores in (2**20, 4 * 11):
        monkeypatch.setattr(distillation, "SCORES", scores)
        student, teacher, labels = draw(1)
        kl, ce = losses(student, teacher, labels, top_k=top_k)
        (kl + 2 * ce).backward()
        values.append((kl.item(), ce.item()))
        grads.append(student.grad)
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    torch.testing.assert_close(grads[0], grads[1])


def test_a_teacher_teaches_itself_nothing():
    student, _, labels = draw(2)
    for options in ({}, {"top_k": 4}, {"temperature": 3.0}):
        kl, _ = losses(student, student.detach(), labels, **options)
        assert kl.item() == pytest.approx(0, abs=1e-6)


def test_top_k_is_a_kl_that_rises_to_the_full_one():
    student, teacher, labels = draw(3)
    values = [losses(student, teacher, labels, top_k=k)[0].item() for k in (1, 2, 4, 8, 10, 11, 500)]
    full = losses(student, teacher, labels)[0].item()
    assert values == sorted(values) and 0 < values[0] < 0.9 * full
    # With ten of eleven tokens named the others are one token: nothing is left out.
    assert values[4] == pytest.approx(full, rel=1e-5) and values[5] == values[6] == full


def test_top_k_equals_the_formula():
    student, teacher, labels = draw(4)
    labels[:] = 3
    best = teacher.topk(3).indices
    log_p, log_q = (
        torch.cat([probable, 1 - probable.sum(-1, keepdim=True)], -1).log()
        for probable in (logits.softmax(-1).gather(-1, best) for logits in (teacher, student))
    )
    wanted = (log_p.exp() * (log_p - log_q)).sum(-1)[:, :-1].mean()
    assert losses(student, teacher, labels, top_k=3)[0].item() == pytest.approx(wanted.item(), rel=1e-4)


def test_top_k_of_a_teacher_that_is_certain_has_a_gradient():
    student, teacher, labels = draw(5)
    teacher[..., 2] += 200
    kl, _ = losses(student, teacher, labels, top_k=2)
    kl.backward()
    assert torch.isfinite(kl) and student.grad.isfinite().all() and student.grad.norm() > 0.01


@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 1e-6), (torch.float16, 1e-3)])
def test_stored_top_tokens_teach_what_their_teacher_does(dtype, tolerance):
    student, teacher, labels = draw(6)
    index, logprobs = top_tokens(teacher / 2.0, 4)
    stored = TopTokens(index.int(), logprobs.to(dtype))
    kl, ce = distillation_losses(Predictions.of_logits(student), stored, labels, temperature=2.0)
    live_kl, live_ce = losses(student, teacher, labels, top_k=4, temperature=2.0)
    assert kl.item() == pytest.approx(live_kl.item(), rel=tolerance) and ce.item() == live_ce.item()


def heads(vocabulary: int, tokens: int):
    """A student and a teacher of width 16, by their states and heads."""
    torch.manual_seed(0)
    one, other = (torch.nn.Linear(16, vocabulary, bias=False).requires_grad_(False) for _ in range(2))
    states = torch.randn(1, tokens, 16).requires_grad_()
    return (
        states,
        Predictions(states, vocabulary, one),
        Predictions(torch.randn(1, tokens, 16), vocabulary, other),
    )


def test_states_and_a_head_give_what_logits_give():
    states, student, teacher = heads(50, 40)
    labels = torch.randint(0, 50, (1, 40))
    sum(distillation_losses(student, teacher, labels)).backward()
    deferred, states.grad = states.grad, None
    whole = [Predictions.of_logits(one.head(one.states)) for one in (student, teacher)]
    sum(distillation_losses(*whole, labels)).backward()
    torch.testing.assert_close(deferred, states.grad)


@pytest.mark.parametrize("top_k", [None, 8])
def test_memory_does_not_grow_with_tokens_times_vocabulary(monkeypatch, top_k):
    monkeypatch.setattr(distillation, "SCORES", 2**16)
    peaks = []
    for tokens in (513, 4097):
        _, student, teacher = heads(1024, tokens)
        labels = torch.zeros((1, tokens), dtype=torch.long)
        work = lambda: sum(distillation_losses(student, teacher, labels, top_k=top_k)).backward()  # noqa: B023, E731
        work()
        peaks.append(peak(allocations(work)))
    per_token = (peaks[1] - peaks[0]) / (4097 - 513)
    # Rows of both models, their copies by piece and gradients, all of width 16; logits would be 1024 wide.
    assert per_token <= 16 * 4 * 10
    assert peaks[0] <= 513 * 16 * 4 * 10 + 10 * 2**16 * 4


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


def test_weights_of_layers_are_shares_of_the_mean():
    layers = [torch.randn(1, 5, 4) for _ in range(3)]
    student = [layers[0], 0 * layers[1], layers[2] / 2]
    counted = torch.ones(1, 5)
    assert attention_distance(student, layers, counted, [1.0, 2.0, 1.0]).item() == pytest.approx(2.25 / 4)
    assert attention_distance(student, layers, counted, [5.0, 5.0, 5.0]).item() == pytest.approx(1.25 / 3)

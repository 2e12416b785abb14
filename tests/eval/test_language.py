"""Perplexity and agreement against hand computation."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from eval.checkpoint import Loaded, find_checkpoint, load
from eval.errors import EvalError
from eval.measures import agreement, perplexity
from eval.sections import AgreementSection, PerplexitySection
from eval.text import pack, read_text


def test_perplexity_is_exp_of_the_mean_loss(loaded_dense: Loaded, ask: Callable[..., Any]) -> None:
    question = ask(loaded_dense, PerplexitySection(length=24, contexts=5, past=9))
    ids = pack(question.text, loaded_dense.tokenizer, loaded_dense.bos, 24, 5)
    rows = []
    for row in ids:
        logits = loaded_dense.model(row[None]).logits[0].detach()
        scores = torch.log_softmax(logits.double(), dim=-1)
        rows.append([-float(scores[at - 1, row[at]]) for at in range(1, 24)])
    outcome = perplexity.run(question)
    values = {metric.key: metric for metric in outcome.metrics}
    means = torch.tensor(rows, dtype=torch.float64).mean(1)
    expected = math.exp(float(means.mean()))
    assert values["perplexity"].value == pytest.approx(expected, rel=1e-5)
    assert values["perplexity"].stderr == pytest.approx(
        expected * float(means.std()) / math.sqrt(5), rel=1e-4
    )
    assert values["perplexity"].n == 5
    late = torch.tensor([row[8:] for row in rows])
    assert values["perplexity@9+"].value == pytest.approx(math.exp(float(late.mean())), rel=1e-5)
    early = torch.tensor([row[:8] for row in rows])
    assert values["perplexity@1-8"].value == pytest.approx(math.exp(float(early.mean())), rel=1e-5)


def test_contexts_begin_with_bos_and_are_full(loaded_dense: Loaded) -> None:
    text = read_text(None)
    ids = pack(text, loaded_dense.tokenizer, loaded_dense.bos, 40, 6)
    assert ids.shape == (6, 40)
    assert (ids[:, 0] == loaded_dense.tokenizer.bos_token_id).all()
    joined = loaded_dense.tokenizer.decode(ids[:, 1:].flatten())
    assert text.content.startswith(joined[:200])


def test_a_model_agrees_with_itself(loaded_dense: Loaded, ask: Callable[..., Any]) -> None:
    outcome = agreement.run(ask(loaded_dense, AgreementSection(length=32, contexts=4), loaded_dense))
    kl, top1 = outcome.metrics
    assert kl.value == pytest.approx(0.0, abs=1e-7)
    assert top1.value == 100.0
    assert top1.stderr == 0.0


def test_divergence_is_that_of_the_definition(
    loaded_dense: Loaded, make_checkpoint: Callable[..., Any], ask: Callable[..., Any]
) -> None:
    other = load(find_checkpoint("other", make_checkpoint(seed=1)), torch.device("cpu"), torch.float32)
    question = ask(other, AgreementSection(length=20, contexts=3), loaded_dense)
    ids = pack(question.text, other.tokenizer, other.bos, 20, 3)
    p = torch.log_softmax(loaded_dense.model(ids).logits[:, :-1].double(), -1)
    q = torch.log_softmax(other.model(ids).logits[:, :-1].double(), -1)
    kl, top1 = agreement.run(question).metrics
    assert kl.value == pytest.approx((p.exp() * (p - q)).sum(-1).mean().item(), rel=1e-4)
    assert top1.value == pytest.approx(100 * (p.argmax(-1) == q.argmax(-1)).double().mean().item(), abs=1e-6)


def test_different_vocabularies_are_refused(
    loaded_dense: Loaded, make_checkpoint: Callable[..., Any], ask: Callable[..., Any]
) -> None:
    other = load(
        find_checkpoint("other", make_checkpoint(vocab_size=512)), torch.device("cpu"), torch.float32
    )
    with pytest.raises(EvalError, match=r"'other' scores 512 tokens and 'dense' 400"):
        agreement.run(ask(other, AgreementSection(length=20, contexts=3), loaded_dense))


def test_a_text_that_is_too_short_is_refused(loaded_dense: Loaded) -> None:
    with pytest.raises(EvalError, match="less than two contexts"):
        pack(read_text(None), loaded_dense.tokenizer, loaded_dense.bos, 500_000, 2)

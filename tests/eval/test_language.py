"""Perplexity and agreement against hand computation."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from eval import logits
from eval.checkpoint import Loaded, find_checkpoint, load
from eval.contexts import pack
from eval.errors import EvalError
from eval.measures import agreement, perplexity
from eval.positions import position_buckets
from eval.sections import AgreementSection, PerplexitySection

MakeCheckpoint = Callable[..., Path]


def losses_by_hand(loaded: Loaded, ids: Tensor) -> Tensor:
    """Nats of every token but the first, ``[C, T - 1]``, float64."""
    scores = torch.log_softmax(loaded.model(ids).logits.detach().double(), dim=-1)
    return -scores[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)


def test_perplexity_is_exp_of_the_mean_loss(loaded_dense: Loaded, ask: Callable[..., Any]) -> None:
    question = ask(loaded_dense, PerplexitySection(length=24, contexts=5, past=9))
    ids = pack(question.text, loaded_dense.tokenizer, loaded_dense.bos, 24, 5).ids
    losses = losses_by_hand(loaded_dense, ids)
    values = {metric.key: metric for metric in perplexity.run(question).metrics}
    means = losses.mean(1)
    expected = math.exp(float(means.mean()))
    assert values["perplexity"].value == pytest.approx(expected, rel=1e-5)
    error = expected * float(means.std()) / math.sqrt(5)
    assert values["perplexity"].stderr == pytest.approx(error, rel=1e-4)
    assert values["perplexity"].n == 5
    late, early = losses[:, 8:].mean(1), losses[:, :8].mean(1)
    assert values["perplexity@9+"].value == pytest.approx(math.exp(float(late.mean())), rel=1e-5)
    assert values["perplexity@1-8"].value == pytest.approx(math.exp(float(early.mean())), rel=1e-5)
    drift = math.exp(float((late - early).mean()))
    assert values["perplexity_drift"].value == pytest.approx(drift, rel=1e-5)
    error = drift * float((late - early).std()) / math.sqrt(5)
    assert values["perplexity_drift"].stderr == pytest.approx(error, rel=1e-4)


def test_buckets_double_and_are_all_of_the_context(loaded_dense: Loaded, ask: Callable[..., Any]) -> None:
    assert position_buckets(512) == [1, 16, 32, 64, 128, 256, 512]
    assert position_buckets(131_072)[:3] == [1, 1024, 2048]
    assert position_buckets(20) == [1, 20]
    question = ask(loaded_dense, PerplexitySection(length=80, contexts=4))
    losses = losses_by_hand(loaded_dense, pack(question.text, loaded_dense.tokenizer, [0], 80, 4).ids)
    outcome = perplexity.run(question)
    values = {metric.key: metric.value for metric in outcome.metrics}
    for first, last in ((1, 19), (20, 39), (40, 79)):
        expected = math.exp(float(losses[:, first - 1 : last].mean()))
        assert values[f"perplexity@{first}-{last}"] == pytest.approx(expected, rel=1e-5)
    assert [(point["first"], point["last"]) for point in outcome.detail["curve"]] == [
        (1, 19),
        (20, 39),
        (40, 79),
    ]
    assert len(values) == len(outcome.metrics)


def test_sliding_scores_every_token_once_with_enough_before_it(
    loaded_dense: Loaded, ask: Callable[..., Any]
) -> None:
    question = ask(loaded_dense, PerplexitySection(length=33, contexts=5, stride=8))
    stream = pack(question.text, loaded_dense.tokenizer, [], 64, 2).ids[0]
    expected = []
    for number in range(5):
        context = torch.cat([torch.tensor([loaded_dense.bos[0]]), stream[8 * number : 8 * number + 32]])
        expected.append(losses_by_hand(loaded_dense, context[None])[0, -8:].mean())
    values = {metric.key: metric for metric in perplexity.run(question).metrics}
    assert values["perplexity_sliding@8"].value == pytest.approx(
        float(torch.stack(expected).mean().exp()), rel=1e-5
    )
    assert "sees 25 or more" in values["perplexity_sliding@8"].label


def test_bits_per_byte_do_not_depend_on_the_tokens(loaded_dense: Loaded, ask: Callable[..., Any]) -> None:
    question = ask(loaded_dense, PerplexitySection(length=40, contexts=3))
    contexts = pack(question.text, loaded_dense.tokenizer, loaded_dense.bos, 40, 3)
    losses = losses_by_hand(loaded_dense, contexts.ids)
    text = [loaded_dense.tokenizer.decode(row[1:]) for row in contexts.ids]
    (metric,) = (metric for metric in perplexity.run(question).metrics if metric.key == "bits_per_byte")
    expected = float(losses.sum()) / math.log(2) / sum(len(part.encode()) for part in text)
    assert metric.value == pytest.approx(expected, rel=1e-5)
    assert metric.stderr is not None and 0 < metric.stderr < expected


def test_long_contexts_go_through_the_cache_and_give_the_same(
    loaded_dense: Loaded, sliding: Path, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = load(find_checkpoint("sliding", sliding), torch.device("cpu"), torch.float32)
    for loaded in (loaded_dense, narrow):
        question = ask(loaded, PerplexitySection(length=300, contexts=2))
        whole = perplexity.run(question).metrics[0].value
        with monkeypatch.context() as patched:
            patched.setattr(logits, "LOGITS", 90 * 400)
            patched.setattr(logits, "CHUNK", 90)
            ids = torch.zeros(1, 300, dtype=torch.long)
            stretches = [part.stop - part.start for part, _ in logits.next_token_logits(loaded.model, ids)]
            assert stretches == [90, 90, 90, 29]
            assert perplexity.run(question).metrics[0].value == pytest.approx(whole, rel=1e-5)


def test_a_model_agrees_with_itself(loaded_dense: Loaded, ask: Callable[..., Any]) -> None:
    outcome = agreement.run(ask(loaded_dense, AgreementSection(length=32, contexts=4), loaded_dense))
    kl, top1, top5, late = outcome.metrics
    assert kl.value == late.value == pytest.approx(0.0, abs=1e-7)
    assert top1.value == top5.value == 100.0
    assert top1.stderr == 0.0


def test_divergence_is_that_of_the_definition(
    loaded_dense: Loaded, make_checkpoint: MakeCheckpoint, ask: Callable[..., Any]
) -> None:
    other = load(find_checkpoint("other", make_checkpoint(seed=1)), torch.device("cpu"), torch.float32)
    question = ask(other, AgreementSection(length=20, contexts=3, past=12, top_k=4), loaded_dense)
    ids = pack(question.text, other.tokenizer, other.bos, 20, 3).ids
    p = torch.log_softmax(loaded_dense.model(ids).logits[:, :-1].double(), -1)
    q = torch.log_softmax(other.model(ids).logits[:, :-1].double(), -1)
    kl, top1, top4, late = agreement.run(question).metrics
    each = (p.exp() * (p - q)).sum(-1)
    assert kl.value == pytest.approx(each.mean().item(), rel=1e-4)
    assert late.key == "kl@12+" and late.value == pytest.approx(each[:, 11:].mean().item(), rel=1e-4)
    assert top1.value == pytest.approx(100 * (p.argmax(-1) == q.argmax(-1)).double().mean().item(), abs=1e-6)
    ours, theirs = p.topk(4).indices.tolist(), q.topk(4).indices.tolist()
    shared = [
        len(set(a) & set(b)) / 4 for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True)
    ]
    assert top4.key == "top4" and top4.value == pytest.approx(100 * sum(shared) / len(shared), abs=1e-4)


def test_different_vocabularies_are_refused(
    loaded_dense: Loaded, make_checkpoint: MakeCheckpoint, ask: Callable[..., Any]
) -> None:
    other = load(
        find_checkpoint("other", make_checkpoint(vocab_size=512)), torch.device("cpu"), torch.float32
    )
    with pytest.raises(EvalError, match=r"'other' scores 512 tokens and 'dense' 400"):
        agreement.run(ask(other, AgreementSection(length=20, contexts=3), loaded_dense))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"past": 1}, "past=1 must"),
        ({"past": 40}, "past=40 must"),
        ({"stride": 39}, "stride=39 must be at most"),
    ],
)
def test_what_leaves_nothing_to_score_is_refused(
    loaded_dense: Loaded, settings: dict[str, int], words: str
) -> None:
    with pytest.raises(EvalError, match=f"perplexity.{words}"):
        perplexity.check(loaded_dense.checkpoint, PerplexitySection(length=40, **settings))

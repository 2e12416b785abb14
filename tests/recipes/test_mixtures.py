"""Mixtures are drawn by weight, from the seed and the document's number alone, and go on from anywhere."""

from collections import Counter
from itertools import islice

import pytest

from recipes.errors import RecipeError
from recipes.uptrain.mixtures import Listed, Mixture


def mixture(seed=0, order=None, weights=(3.0, 1.0)):
    sources = [Listed([f"a{number}" for number in range(7)], order), Listed([f"b{n}" for n in range(4)])]
    return Mixture(sources, weights, seed)


def test_weights_are_shares_of_documents():
    counts = Counter(text[0] for text in islice(mixture(), 2000))
    assert counts["a"] / 2000 == pytest.approx(0.75, abs=0.03)


def test_another_seed_draws_another_order_and_the_same_one_the_same():
    first, again, other = (list(islice(mixture(seed), 60)) for seed in (0, 0, 1))
    assert first == again != other


def test_the_kind_of_a_document_depends_on_its_number_alone():
    # Other texts, and another order of them, are drawn from the same sources at the same places.
    plain, ordered = (list(islice(mixture(order=order), 60)) for order in (None, 5))
    assert [text[0] for text in plain] == [text[0] for text in ordered] and plain != ordered


@pytest.mark.parametrize("order", [None, 5])
def test_a_mixture_goes_on_from_its_state_within_and_after_a_pass(order):
    whole = list(islice(mixture(order=order), 60))
    for place in (0, 1, 5, 23, 41):
        left, resumed = mixture(order=order), mixture(order=order)
        assert list(islice(left, place)) == whole[:place]
        resumed.load_state(left.state())
        assert list(islice(resumed, 60 - place)) == whole[place:]


def test_every_pass_reads_each_document_that_is_not_reserved_once():
    source = Listed([str(number) for number in range(9)], seed=1, reserved=3)
    passes = Mixture([source], [1.0], 0)
    orders = [list(islice(passes, 6)) for _ in range(3)]
    assert all(sorted(order) == ["3", "4", "5", "6", "7", "8"] for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_a_source_without_text_is_named():
    with pytest.raises(RecipeError, match="source 2 of the training data holds no text"):
        list(islice(Mixture([Listed(["a"]), Listed([])], [1.0, 1.0], 0), 20))
    with pytest.raises(RecipeError, match="no text beside the documents that are held out"):
        next(Mixture([Listed(["a", "b"], reserved=2)], [1.0], 0))

"""A decision names the state it was made on: what somebody else decided meanwhile is not overwritten without a word."""

import pytest

from traklens.stores.errors import UsageError
from traklens.stores.reviews import Reviews, seen_of


def test_a_decision_on_a_state_that_was_not_seen_is_refused_and_says_whose_it_is(tmp_path):
    reviews = Reviews(tmp_path)
    before = reviews.current()
    reviews.decide(["a"], "keep", reviewer="Ann", seen={"a": seen_of(before, "a")})
    with pytest.raises(UsageError, match="'keep', decided meanwhile by Ann"):
        reviews.decide(["a"], "wrong", reviewer="Bob", seen={"a": seen_of(before, "a")})
    assert reviews.current()["a"].decision == "keep"
    reviews.decide(["a"], "wrong", reviewer="Bob", seen={"a": seen_of(reviews.current(), "a")})  # knowingly
    assert reviews.current()["a"].decision == "wrong"


def test_one_may_change_ones_own_mind_but_a_visitor_without_a_name_is_nobody(tmp_path):
    reviews = Reviews(tmp_path)
    reviews.decide(["a"], "keep", reviewer="Ann", seen={"a": 0})
    reviews.decide(["a"], "wrong", reviewer="Ann", seen={"a": 0})
    reviews.decide(["b"], "keep", seen={"b": 0})
    with pytest.raises(UsageError, match="without a name"):
        reviews.decide(["b"], "wrong", seen={"b": 0})


def test_one_pair_that_changed_refuses_a_decision_on_many_as_a_whole(tmp_path):
    reviews = Reviews(tmp_path)
    reviews.decide(["b"], "keep", reviewer="Ann")
    with pytest.raises(UsageError, match="pair b"):
        reviews.decide(["a", "b"], "wrong", reviewer="Bob", seen={"a": 0, "b": 0})
    assert set(reviews.current()) == {"b"}


def test_undo_takes_back_ones_own_last_and_nobody_elses(tmp_path):
    reviews = Reviews(tmp_path)
    reviews.decide(["a"], "keep", reviewer="Ann")
    reviews.decide(["a"], "wrong", reviewer="Bob")
    assert reviews.undo("Ann") == ("a",)
    assert reviews.current()["a"].decision == "wrong"

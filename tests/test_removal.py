"""Predicted removals: equal to recomputation, to the sum of scores, and nested removals to their parts."""

import numpy as np
import pytest

from engine.attribution import rank, stored_target
from engine.precondition import gram_matrix
from engine.removal import curve, most_damaging, remove
from stores.errors import UsageError
from stores.store import Store, open_store


@pytest.fixture(scope="module")
def store(tiny_store) -> Store:
    return open_store(tiny_store)


def recomputed(store: Store, rows: np.ndarray, target: int) -> float:
    """−mean_m φ(z)ᵀ (ΦᵀΦ − Φ_RᵀΦ_R + ridge·I)⁻¹ Φ_Rᵀ Q_R, the Gram matrix made anew without the rows."""
    found = []
    for m in range(store.n_checkpoints):
        phi = np.asarray(store.array(m, "phi")[:]).astype(np.float64)
        q = np.asarray(store.array(m, "q")[:]).astype(np.float64)
        train = phi[: store.n_train]
        dim = train.shape[1]
        ridge = store.manifest.score.damping * np.trace(gram_matrix([train], dim)) / dim
        rest = np.delete(train, rows, axis=0)
        gram = rest.T @ rest + ridge * np.eye(dim)
        found.append(-phi[target] @ np.linalg.solve(gram, train[rows].T @ q[rows]))
    return float(np.mean(found))


@pytest.mark.parametrize("size", [1, 2, 9, 40])
def test_group_removal_equals_the_gram_matrix_without_the_rows(store, size):
    rows = np.random.default_rng(size).choice(store.n_train, size=size, replace=False)
    removal = remove(store, rows)
    for target in (0, int(rows[0]), store.n - 1):
        expected = recomputed(store, rows, target)
        assert removal.effect(stored_target(store, target).influence_query) == pytest.approx(
            expected, rel=2e-4, abs=1e-6
        )


def test_additive_removal_is_minus_the_sum_of_the_scores(store):
    target = stored_target(store, store.n - 1)
    rows = [3, 1, 40]
    scores = store.influence.scores(target.influence_query)
    assert remove(store, rows).effect(target.influence_query, "additive") == pytest.approx(
        -scores[rows].sum(), rel=1e-4
    )


def test_effects_on_many_rows_equal_those_on_each(store):
    removal = remove(store, [5, 6, 7])
    rows = np.array([store.n - 1, 0, store.n - 3])
    for method in ("group", "additive"):
        one_by_one = [removal.effect(stored_target(store, int(row)).influence_query, method) for row in rows]
        np.testing.assert_allclose(removal.effects(store, rows, method), one_by_one, rtol=1e-4, atol=1e-6)
    whole = removal.effects(store, slice(0, store.n))
    np.testing.assert_allclose(whole[rows], removal.effects(store, rows), rtol=1e-5, atol=1e-6)


def test_the_curve_of_nested_removals_equals_each_of_them(store):
    target = stored_target(store, store.n - 2)
    rows = np.array([pair.row for pair in rank(store, target, top=25).proponents])
    found = curve(store, target, rows)
    for size in (1, 2, 7, rows.size):
        removal = remove(store, rows[:size])
        for method in ("group", "additive"):
            expected = removal.effect(target.influence_query, method)
            assert found[method][size - 1] == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_the_greedy_set_takes_the_best_next_pair_and_is_no_weaker_than_the_top(store):
    target = stored_target(store, store.n - 2)
    candidates = np.array([pair.row for pair in rank(store, target, top=15).proponents])
    chosen = most_damaging(store, target, 4, candidates)
    by_hand: list[int] = []
    for _ in range(4):
        rest = [int(row) for row in candidates if row not in by_hand]
        effects = [remove(store, [*by_hand, row]).effect(target.influence_query) for row in rest]
        by_hand.append(rest[int(np.argmin(effects))])
    assert chosen.tolist() == by_hand
    top = curve(store, target, candidates[:4])["group"][-1]
    assert curve(store, target, chosen)["group"][-1] <= top + 1e-6


def test_an_exact_duplicate_is_seen_by_the_group_form_alone(store):
    """Removing both copies of a pair costs more than twice what removing one of them does."""
    phi = np.asarray(store.array(0, "phi")[: store.n_train])
    row = int(np.argmax((phi**2).sum(axis=1)))
    query = stored_target(store, row).influence_query
    both = [row, int(np.argsort(-(phi @ phi[row]))[1])]
    removal = remove(store, both)
    singles = sum(remove(store, [r]).effect(query) for r in both)
    assert removal.effect(query, "additive") == pytest.approx(
        sum(remove(store, [r]).effect(query, "additive") for r in both), rel=1e-3
    )
    assert abs(removal.effect(query)) > abs(singles)


@pytest.mark.parametrize(
    ("rows", "message"), [([], "none"), ([10_000], "row 10000"), ([-1], "row -1"), (range(60), "at least 8 left")]
)
def test_rows_that_cannot_be_removed_are_named(store, rows, message):
    with pytest.raises(UsageError, match=message):
        remove(store, list(rows))


def test_an_unknown_method_is_named(store):
    with pytest.raises(UsageError, match="newton"):
        remove(store, [1]).effect(stored_target(store, 0).influence_query, "newton")

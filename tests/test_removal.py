"""Predicted removals: equal to recomputation, to the sum of scores, and nested removals to their parts."""

import numpy as np
import pytest

from tests.written import features, write_store
from traklens.engine.attribution.scores import rank, stored_target
from traklens.engine.features.precondition import gram_matrix
from traklens.engine.removal.effect import _Blocks, curve, most_damaging, remove
from traklens.stores.errors import UsageError
from traklens.stores.store import Store

COPIES = (3, 7)  # the same picture and caption twice
FLOAT32 = (
    1e-4  # of the largest terms: the rounding of some hundred float32 products, solved with a condition number of 10
)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    phi = features()["phi"]
    phi[:, COPIES] = 2 * phi[:, COPIES[:1]]
    return write_store(tmp_path_factory.mktemp("removal") / "store", phi=phi)


def scale(store: Store, query: np.ndarray, rows) -> float:
    """How large the terms are that an effect is the sum of."""
    return float(np.abs(store.influence.rows(np.asarray(rows)) * query).sum())


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
        query = stored_target(store, target).influence_query
        expected = recomputed(store, rows, target)
        assert removal.effect(query) == pytest.approx(expected, abs=FLOAT32 * scale(store, query, rows))


def test_additive_removal_is_minus_the_sum_of_the_scores(store):
    target = stored_target(store, store.n - 1)
    rows = [3, 1, 40]
    scores = store.influence.scores(target.influence_query)
    assert remove(store, rows).effect(target.influence_query, "additive") == pytest.approx(
        -scores[rows].sum(), abs=FLOAT32 * scale(store, target.influence_query, rows)
    )


def test_effects_on_many_rows_equal_those_on_each(store):
    removal = remove(store, [5, 6, 7])
    rows = np.array([store.n - 1, 0, store.n - 3])
    for method in ("group", "additive"):
        one_by_one = [removal.effect(stored_target(store, int(row)).influence_query, method) for row in rows]
        np.testing.assert_allclose(removal.effects(store, rows, method), one_by_one, atol=FLOAT32)
    whole = removal.effects(store, slice(0, store.n))
    np.testing.assert_allclose(whole[rows], removal.effects(store, rows), atol=FLOAT32)


def test_the_curve_of_nested_removals_equals_each_of_them(store):
    target = stored_target(store, store.n - 2)
    rows = np.array([pair.row for pair in rank(store, target, top=25).proponents])
    found = curve(store, target, rows)
    for size in (1, 2, 7, rows.size):
        removal = remove(store, rows[:size])
        for method in ("group", "additive"):
            expected = removal.effect(target.influence_query, method)
            rounding = FLOAT32 * scale(store, target.influence_query, rows[:size])
            assert found[method][size - 1] == pytest.approx(expected, abs=rounding)


def test_the_greedy_set_takes_the_best_next_pair_and_is_no_weaker_than_the_top(store):
    target = stored_target(store, store.n - 2)
    candidates = np.array([pair.row for pair in rank(store, target, top=15).proponents])
    chosen = most_damaging(store, target, 4, candidates).tolist()
    rounding = FLOAT32 * scale(store, target.influence_query, candidates)
    for step, taken in enumerate(chosen):
        effects = {
            int(row): remove(store, [*chosen[:step], int(row)]).effect(target.influence_query)
            for row in candidates
            if row not in chosen[:step]
        }
        assert effects[taken] <= min(effects.values()) + rounding
    top = curve(store, target, candidates[:4])["group"][-1]
    assert curve(store, target, chosen)["group"][-1] <= top + rounding


def test_an_exact_duplicate_is_seen_by_the_group_form_alone(store):
    """Removing both copies of a pair costs more than twice what removing one of them does."""
    query = stored_target(store, COPIES[0]).influence_query
    removal = remove(store, COPIES)
    singles = sum(remove(store, [row]).effect(query) for row in COPIES)
    rounding = FLOAT32 * scale(store, query, COPIES)
    assert removal.effect(query, "additive") == pytest.approx(
        sum(remove(store, [row]).effect(query, "additive") for row in COPIES), abs=rounding
    )
    assert abs(removal.effect(query)) > 1.2 * abs(singles)


@pytest.mark.parametrize(
    ("rows", "message"), [([], "none"), ([10_000], "row 10000"), ([-1], "row -1"), (range(55), "at least 8 left")]
)
def test_rows_that_cannot_be_removed_are_named(store, rows, message):
    with pytest.raises(UsageError, match=message):
        remove(store, list(rows))


def test_an_unknown_method_is_named(store):
    with pytest.raises(UsageError, match="newton"):
        remove(store, [1]).effect(stored_target(store, 0).influence_query, "newton")


def test_examples_so_alike_that_float32_cannot_tell_are_refused_by_name():
    """With no damping to speak of, H of equal rows has the eigenvalue 1, or a little more once rounded."""
    phi = np.ones((4, 8), dtype=np.float32)
    blocks = _Blocks(phi, phi / np.float32(8 * 4) * np.float32(1 + 1e-6), np.ones(4))
    with pytest.raises(UsageError, match="4 so alike"):
        blocks.factor()

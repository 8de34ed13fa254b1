"""The Remove and Evaluate pages without a browser: what they show, and that they import no torch to do so."""

import json
import subprocess
import sys

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from tests.conftest import html_of
from traklens.app import markup
from traklens.app.parts.charts import drops, efficacy_over_cost
from traklens.engine.attribution.scores import stored_target
from traklens.engine.removal.effect import remove
from traklens.engine.removal.simulation import choose, collateral
from traklens.engine.retraining.jobs import models_to_train, retraining_method
from traklens.stores.layout import EVALUATION, FACTS
from traklens.stores.retrained import Request, Retrained, RetrainedModel, Status, model_key
from traklens.stores.store import Store, open_store


def _remove() -> None:
    from traklens.app.caches import current_store
    from traklens.app.views import remove

    remove.show(current_store())


def _evaluate() -> None:
    from traklens.app.caches import current_store
    from traklens.app.views import evaluate

    evaluate.show(current_store())


@pytest.fixture
def store(shown_store) -> Store:
    return open_store(shown_store)


@pytest.fixture
def at(store) -> AppTest:
    at = AppTest.from_function(_remove, default_timeout=60)
    at.query_params.update({"id": str(store.examples.id[store.n - 1]), "k": "6"})
    return at


def _measure(store: Store, request: Request, change: float) -> None:
    """Put measurements in place as if the models had been trained: f falls by `change`, more or less, without the rows."""
    retrained, method = Retrained(store.path), retraining_method(store)
    rng = np.random.default_rng(0)
    for wanted in models_to_train(store, request):
        base = rng.standard_normal(store.n).astype(np.float32) * 0.1
        without = not wanted.kept[list(request.rows)].any()
        model = RetrainedModel(wanted.kept, wanted.seed, base + (change if without else 0), base, 1.0)
        retrained.write(model_key(method.digest, wanted.kept, wanted.seed), method.digest, model)


def test_the_remove_page_predicts_shows_collateral_and_says_why_there_is_no_interval(at, store):
    at.run()
    shown = html_of(at)
    target = stored_target(store, store.n - 1)
    rows = choose(store, target, "trak", 6)
    removal = remove(store, rows)
    assert "Without 6 training pairs" in shown
    assert markup.number(removal.effect(target.influence_query)) in shown
    assert markup.number(removal.effect(target.influence_query, "additive")) in shown
    assert "No interval yet" in shown
    falls, rises = collateral(store, removal, target, 5)
    assert falls
    for pair in (*falls, *rises):
        assert markup.number(pair.score) in shown
    assert [button.label for button in at.button if button.key == "retrain"] == ["Retrain to check"]


def test_the_url_says_what_is_removed_and_pairs_can_be_picked_by_hand(at, store):
    at.query_params["choice"] = "picked"
    at.run()
    assert "Nothing is picked yet" in html_of(at)
    at.button(key="pick-topick-2").click().run()
    target = stored_target(store, store.n - 1)
    second = int(choose(store, target, "trak", 2)[1])
    assert at.query_params["pick"] == str(store.examples.id[second])
    assert "Without 1 training pair<" in html_of(at)
    at.query_params.update({"pick": "0000000000000000," + str(store.examples.id[3]), "choice": "picked"})
    at.run()
    assert "Without 1 training pair<" in html_of(at)


def test_a_finished_retraining_is_shown_beside_its_prediction_and_in_the_history(at, store):
    target = store.n - 1
    rows = tuple(int(row) for row in choose(store, stored_target(store, target), "trak", 6))
    request = Request(rows=rows, seeds=2, target=target, choice="trak 6", predicted={"group": -1.0})
    _measure(store, request, -2.5)
    retrained = Retrained(store.path)
    retrained.write_status(retrained.add_job(request), Status("done", 6, 6))
    at.run()
    shown = html_of(at)
    assert "Measured with 2 seeds" in shown
    assert "as many at random" in shown
    assert ">trak 6</bdi>" in shown
    assert any("History of retrainings (1)" in element.label for element in at.expander)


def test_enough_retrainings_give_an_interval(at, store):
    retrained = Retrained(store.path)
    for target in range(store.n_train, store.n_train + 14):
        rows = tuple(int(row) for row in choose(store, stored_target(store, target), "trak", 5))
        request = Request(rows=rows, seeds=1, target=target, choice="trak 5", random_control=False, origin="evaluate")
        _measure(store, request, -2.0)
        retrained.write_status(retrained.add_job(request), Status("done", 2, 2))
    at.run()
    shown = html_of(at)
    assert "90 % interval" in shown
    assert "calibrated" in shown
    page = AppTest.from_function(_evaluate, default_timeout=60).run()
    assert "14 removals. Slope" in html_of(page)


def test_an_interrupted_retraining_can_be_gone_on_with_or_discarded(at, store):
    target = store.n - 1
    rows = tuple(int(row) for row in choose(store, stored_target(store, target), "trak", 6))
    retrained = Retrained(store.path)
    job = retrained.add_job(Request(rows=rows, seeds=2, target=target, choice="trak 6"))
    retrained.write_status(job, Status("running", 1, 6))
    at.run()
    assert "Interrupted after 1 of 6 models" in html_of(at)
    at.button(key=f"discard-{job}").click().run()
    assert retrained.jobs() == []
    assert "Interrupted" not in html_of(at)


def test_leave_k_out_of_one_number_is_drawn_over_the_methods_of_more_over_the_numbers():
    row = {"drop": 1.0, "lo": 0.5, "hi": 1.5}
    one = drops({"36": {"random": row, "clip": row, "trak": row}})
    assert [trace.x for trace in one.data] == [("TRAK",), ("embedding similarity",), ("random",)]  # type: ignore[attr-defined]
    assert "36 removed from training" in one.layout.xaxis.title.text  # type: ignore[attr-defined]
    more = drops({"36": {"trak": row}, "9": {"clip": row, "trak": row}})
    assert [trace.x for trace in more.data] == [(9, 36), (9,)]  # type: ignore[attr-defined]


def test_what_noise_allows_is_a_line_where_it_is_known():
    points = [{"method": "trak", "checkpoints": 1, "seconds": 1.0, "mean": 0.2, "lo": 0.1, "hi": 0.3}]
    assert len(efficacy_over_cost(points, None).layout.shapes) == 0  # type: ignore[attr-defined]
    assert efficacy_over_cost(points, 0.63).layout.shapes[0].y0 == 0.63  # type: ignore[attr-defined]


def test_the_evaluate_page_names_the_command_until_there_is_something_to_show(store):
    page = AppTest.from_function(_evaluate, default_timeout=60).run()
    assert "traklens evaluate" in html_of(page)
    row = {"mean": 0.31, "lo": 0.28, "hi": 0.34, "seconds": 12.0, "keep_share": 0.1}
    row["without_threshold"] = {"mean": 0.25, "lo": 0.2, "hi": 0.3}  # type: ignore[assignment]
    lead = {"mean": 0.21, "lo": 0.17, "hi": 0.25}
    found = {
        "subsets": 32, "repeats": 1, "targets": 16,
        "lds": {"trak": row, "clip": row | {"mean": 0.1, "hi": 0.12, "behind_trak": lead}},
        "lds_by_checkpoints": [{"method": "trak", "checkpoints": 2, "seconds": 1.0, "mean": 0.3, "lo": 0.2, "hi": 0.4}],
        "leave_k_out": {}, "calibration": {"removals": 0, "slope": None},
    }  # fmt: skip
    (store.path / EVALUATION).write_text(json.dumps(found))
    shown = html_of(AppTest.from_function(_evaluate, default_timeout=60).run())
    assert "rank correlation 0.31 (embedding similarity 0.10)" in shown
    assert "ahead of the best of the others (difference 0.210, 95 % 0.170 to 0.250)" in shown
    assert "0.280 to 0.340" in shown


def test_facts_are_shown_once_they_were_traced_and_forgotten(store):
    def shown() -> str:
        return html_of(AppTest.from_function(_evaluate, default_timeout=60).run())

    assert "Facts traced" not in shown()
    row = {"mrr": 0.97, "recall@1": 0.1, "recall@10": 0.69, "precision@10": 0.5, "lo": 0.95, "hi": 0.98}
    found = {"queries": 487, "sentences": 4798, "retrieval": {"bm25": row, "trak_unit": row | {"mrr": 0.5}}}
    (store.path / FACTS).write_text(json.dumps(found))
    before = shown()
    assert "487 questions" in before
    assert "0.950 to 0.980" in before
    assert "TRAK, rows of length one" in before
    assert "--counterfactual K" in before
    drop = {"drop": 3.214, "lo": 2.5, "hi": 3.9, "lost": 40.5, "facts": 64, "sentences": 320}
    lead = {"mean": 1.25, "lo": 0.5, "hi": 2.0}
    found |= {
        "known": 250, "facts": 64, "k": 5, "seeds": 2,
        "counterfactual": {"trak": drop, "relevant": drop | {"drop": 1.964, "behind_trak": lead}},
    }  # fmt: skip
    (store.path / FACTS).write_text(json.dumps(found))
    after = shown()
    assert "2 seeds" in after
    assert "40.5 of 64" in after
    assert "the sentences that state the fact" in after
    assert "+1.25 (0.500 to 2.000)" in after
    (store.path / FACTS).write_text("[]")
    assert "what fact tracing found" in shown()
    (store.path / FACTS).unlink()


def test_the_pages_import_no_torch(store):
    code = (
        "import sys; from streamlit.testing.v1 import AppTest\n"
        "from tests.test_app_removal import _evaluate, _remove\n"
        "for page in (_remove, _evaluate):\n"
        "    at = AppTest.from_function(page, default_timeout=60).run(); assert not at.exception\n"
        "assert 'traklens.app.views.remove' in sys.modules\n"
        "sys.exit('torch' in sys.modules and 1)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0

"""Sentences that state facts become questions: an entity masked at a time, all of one sentence in one group."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from traklens.engine.attribution.methods import scores_of
from traklens.engine.cli.main import app
from traklens.engine.data.facts import entities_of
from traklens.engine.evaluation.counterfactual import forgotten, taken_out
from traklens.engine.evaluation.fact_tracing import TRACED, by_sentence, measured, queries_in, traced
from traklens.engine.evaluation.facts import kept_facts
from traklens.engine.explore.reproduce import commands, reading_options
from traklens.engine.retraining.jobs import retraining_method
from traklens.engine.streams import generator
from traklens.engine.tasks.reading import DataOptions
from traklens.engine.tasks.registry import task_named
from traklens.stores.errors import DataError, StoreError, UsageError
from traklens.stores.retrained import Retrained, model_key
from traklens.stores.specs import DatasetSpec, FieldSpec
from traklens.stores.store import open_store

SENTENCES = [
    {"id": "w1", "text": "Ada Low lives in Brun, north of Brunswick.", "facts": [["Ada_Low", "home", "Brun"]]},
    {"id": "w2", "text": "Nobody knows.", "facts": [["Cleve", "is", "Dorn"]]},
    {"id": "w3", "text": "Cleve is 737 years old.", "facts": [["Cleve", "age", '"737"']]},
]


def _read(folder, **options):
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SENTENCES))
    reading = DataOptions(mask_facts=True, **options)
    return reading, reading.load(folder, reading.task(task_named("seq2seq")))


def test_each_entity_of_a_sentence_is_masked_once_as_a_whole_word(tmp_path):
    _, found = _read(tmp_path)
    assert [(e.fields["input"], e.fields["target"]) for e in found.examples] == [
        ("[MASK] lives in Brun, north of Brunswick.", "Ada Low"),
        ("Ada Low lives in [MASK], north of Brunswick.", "Brun"),
        ("[MASK] is 737 years old.", "Cleve"),
        ("Cleve is [MASK] years old.", "737"),
    ]
    assert [e.attributes["id"] for e in found.examples] == ["w1", "w1", "w3", "w3"]
    groups = [e.group for e in found.examples]
    assert groups[0] == groups[1] != groups[2] == groups[3]
    assert found.problems.counts() == {"no entity in the sentence": 1}


def test_sentences_are_drawn_before_they_are_masked_and_read_again_alike(tmp_path):
    options, found = _read(tmp_path, sample=2)
    assert len({e.attributes["id"] for e in found.examples} | {p.item for p in found.problems.problems}) == 2
    again = DataOptions().or_those_of(found.spec)
    assert again.reader == "masked_facts"
    same = again.load(tmp_path, task_named("seq2seq"))
    assert [e.id for e in same.examples] == [e.id for e in found.examples]
    assert options.sample == 2


def test_masking_is_of_sentences_with_facts(tmp_path):
    with pytest.raises(UsageError, match="seq2seq"):
        DataOptions(mask_facts=True).task(task_named("causal_lm"))
    (tmp_path / "a.jsonl").write_text('{"text": "no facts here"}\n')
    with pytest.raises(DataError, match="facts"):
        DataOptions(mask_facts=True).load(tmp_path, task_named("seq2seq"))


@pytest.mark.parametrize("facts", ["none", "[1, 2]", None, [["a", "b"]], 3])
def test_facts_that_are_no_triples_have_no_entities(facts):
    assert entities_of(facts) == []


PLACES = ("Brun", "Cleve", "Dorn", "Eick", "Fels", "Gond", "Hard", "Ilse")


@pytest.fixture(scope="module")
def traced_store(tmp_path_factory):
    """A store of facts, each stated twice, and a question about each as a target: its path, and the file of questions."""
    folder, runner = tmp_path_factory.mktemp("facts"), CliRunner()
    rows, asked = [], []
    for i, name in enumerate(("Ada", "Bo", "Cy", "Di", "Eve", "Finn", "Gus", "Hal")):
        fact = [[name, "home", PLACES[i]]]
        rows += [{"id": f"{name} 1", "text": f"{name} lives in {PLACES[i]}.", "facts": fact}]
        rows += [{"id": f"{name} 2", "text": f"The town of {PLACES[i]} is home to {name}.", "facts": fact}]
        relevant = [f"{name} 1", f"{name} 2", "nowhere"]
        asked.append(
            {"id": f"q{i}", "text": f"The home of {name} is [MASK].", "answer": PLACES[i], "relevant": relevant}
        )
    (folder / "data").mkdir()
    for file, content in (("data/train.jsonl", rows), ("queries.jsonl", asked)):
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in content))
    data, queries, store = str(folder / "data"), str(folder / "queries.jsonl"), str(folder / "store")
    train = ["train", data, "--task", "seq2seq", "--mask-facts", "--out", str(folder / "run"), "--checkpoints", "2"]
    for command in (
        [*train, "--heldout", "0", "--epochs", "2", "--batch-size", "8"],
        ["build", data, "--run", str(folder / "run"), "--targets", queries, "--store", store, "--proj-dim", "32"],
    ):
        done = runner.invoke(app, command)
        assert done.exit_code == 0, done.output
    return folder / "store", folder / "queries.jsonl"


def test_facts_are_traced_to_their_sentences_by_every_method(traced_store):
    path, file = traced_store
    store = open_store(path)
    asked = queries_in(store, file)
    assert asked.relevant.shape == (8, 16)
    assert (asked.relevant.sum(axis=1) == 2).all()
    assert len(set(asked.sentence)) == 16
    assert store.n_train == 32
    scores = scores_of(store, "trak", asked.rows).scores
    summed = np.stack([scores[:, asked.sentence == s].sum(axis=1) for s in range(16)], axis=1)
    np.testing.assert_allclose(by_sentence(store, asked, "trak"), summed, rtol=1e-4, atol=1e-9)
    best = scores_of(store, "bm25", asked.rows).scores
    highest = np.stack([best[:, asked.sentence == s].max(axis=1) for s in range(16)], axis=1)
    np.testing.assert_allclose(by_sentence(store, asked, "bm25"), highest, rtol=1e-6)
    done = CliRunner().invoke(app, ["evaluate", str(path), "--queries", str(file), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout[done.stdout.index("{") :])
    assert found["queries"] == 8
    assert set(found["retrieval"]) == set(TRACED) - {"unweighted"}
    assert found["retrieval"]["bm25"]["recall@10"] == 1  # the words of question and answer stand in both
    assert all(row["lo"] <= row["mrr"] <= row["hi"] for row in found["retrieval"].values())
    assert CliRunner().invoke(app, ["evaluate", str(path), "--queries", str(file)]).exit_code == 0


def test_what_is_measured_counts_ties_against_the_method():
    scores = np.array([[3.0, 2.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    relevant = np.array([[False, True, False, True], [True, False, False, False]])
    found = measured(scores, relevant)
    np.testing.assert_allclose(found["mrr"], [1 / 2, 1 / 4])
    np.testing.assert_allclose(found["recall@1"], [0, 0])
    np.testing.assert_allclose(found["recall@10"], [1, 1])
    np.testing.assert_allclose(found["precision@10"], [0.5, 0.25])


def test_queries_that_are_no_targets_say_how_they_become_some(traced_store, tmp_path):
    store = open_store(traced_store[0])
    (tmp_path / "other.jsonl").write_text('{"text": "What?", "answer": "That", "relevant": ["Ada 1"]}\n')
    with pytest.raises(UsageError, match=r"none of its 1 queries is a target.*--targets"):
        queries_in(store, tmp_path / "other.jsonl")
    (tmp_path / "none.jsonl").write_text('{"text": "What?"}\n')
    with pytest.raises(DataError, match='"relevant"'):
        queries_in(store, tmp_path / "none.jsonl")
    with pytest.raises(UsageError, match="trak_unit"):
        traced(store, queries_in(store, traced_store[1]), ["clip_image"])


@pytest.mark.realdata
def test_nearly_every_real_sentence_has_an_entity_to_mask(real_data):
    options = DataOptions(mask_facts=True)
    found = options.load(real_data / "webnlg_facts", options.task(task_named("seq2seq")))
    sentences = {e.attributes["id"] for e in found.examples}
    assert len(sentences) > 0.95 * 12_193
    queries = DataOptions().load(real_data / "webnlg_facts" / "queries.jsonl", task_named("seq2seq"))
    assert len(queries.examples) == 500
    assert all("[MASK]" in e.fields["input"] for e in queries.examples)


def test_what_is_taken_out_are_the_first_sentences_of_each_method_or_those_that_state_the_fact(traced_store):
    store = open_store(traced_store[0])
    asked = queries_in(store, traced_store[1])
    chosen = np.array([1, 6])
    for query, sentences in zip(chosen, taken_out(store, asked, "relevant", 3, chosen), strict=True):
        assert set(sentences) == set(np.flatnonzero(asked.relevant[query]))
    for method in ("trak", "clip", "bm25", "random"):
        scores = by_sentence(store, asked, method)
        for query, sentences in zip(chosen, taken_out(store, asked, method, 3, chosen), strict=True):
            assert len(set(sentences)) == 3
            assert scores[query, sentences].min() >= np.delete(scores[query], sentences).max()


def test_facts_are_forgotten_by_models_trained_without_their_sentences(traced_store, monkeypatch):
    """Every fact counts as known here, whatever the small models learned: what is measured is what is written."""
    path, file = traced_store
    seen = []
    from traklens.engine.retraining.retrainer import Retrainer

    plain = Retrainer.measure

    def all_known(self, model):
        f, similarity, arrays = plain(self, model)
        if not seen:  # the model trained on everything comes first
            arrays["exact"] = np.ones_like(arrays["exact"])
        seen.append(arrays)
        return f, similarity, arrays

    monkeypatch.setattr(Retrainer, "measure", all_known)
    command = ["evaluate", str(path), "--queries", str(file), "--counterfactual", "2", "--seeds", "1", "--facts", "3"]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout[done.stdout.index("{") :])
    assert (found["known"], found["facts"], found["k"], found["seeds"]) == (8, 3, 2, 1)
    assert set(found["counterfactual"]) == {"trak", "clip", "bm25", "relevant", "random"}
    store = open_store(path)
    asked = queries_in(store, file)
    chosen = np.sort(generator("counterfactual facts", store.n_train).permutation(np.arange(8))[:3])
    retrained, way = Retrained(path), retraining_method(store).digest

    def answered(kept):
        arrays = retrained.read(model_key(way, kept, 100_000)).arrays
        return arrays["log_p"].astype(float)[asked.rows[chosen]], arrays["exact"][asked.rows[chosen]]

    before, _ = answered(np.ones(store.n_train, dtype=bool))
    after = {}
    for method in ("trak", "clip", "bm25", "relevant", "random"):
        taken = np.concatenate(taken_out(store, asked, method, 2, chosen))
        after[method], exact = answered(~np.isin(asked.sentence, taken))
        row = found["counterfactual"][method]
        assert row["drop"] == pytest.approx((before - after[method]).mean(), abs=1e-6)
        assert row["lost"] == (1 - exact).sum()
        assert row["lo"] <= row["drop"] <= row["hi"]
        assert row["behind_trak"]["mean"] == pytest.approx((after[method] - after["trak"]).mean(), abs=1e-6)
    assert found["counterfactual"]["relevant"]["sentences"] == 6
    assert kept_facts(store) == found
    count = len(seen)
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0, again.output
    assert len(seen) == count  # nothing is trained twice
    CliRunner().invoke(app, ["evaluate", str(path), "--queries", str(file)])
    later = kept_facts(store)
    assert later is not None
    assert later["counterfactual"] == found["counterfactual"]


def test_removals_that_cannot_be_measured_say_why(traced_store):
    path, file = traced_store
    alone = CliRunner().invoke(app, ["evaluate", str(path), "--counterfactual", "2"])
    assert "a file of queries" in str(alone.exception)
    store = open_store(path)
    with pytest.raises(UsageError, match="1 to 8"):
        forgotten(store, queries_in(store, file), 9)
    (path / "facts.json").write_text('{"retrieval": 3}')
    with pytest.raises(StoreError, match="what fact tracing found"):
        kept_facts(store)
    (path / "facts.json").unlink()


def test_the_commands_that_make_such_a_store_again_say_how_it_was_read(traced_store):
    path, file = traced_store
    store = open_store(path)
    train, build = commands(store)
    assert "--mask-facts" in train
    assert f"--targets {file}" in build
    assert "--no-weight-by-q" in build
    assert not store.manifest.score.weight_by_q  # as for every language model


def test_two_columns_of_texts_and_columns_of_other_names_are_named():
    fields = (FieldSpec("question", "text"), FieldSpec("sentence", "text"), FieldSpec("label", "label", "gold"))
    spec = DatasetSpec("data", "text", None, None, None, 0, 1, "", fields=fields)
    named = ["--text-column", "question", "--text-column", "sentence", "--label-column", "gold"]
    assert reading_options(spec) == named
    plain = (FieldSpec("text", "text", "review"), FieldSpec("label", "label"))
    assert reading_options(replace(spec, fields=plain)) == ["--text-column", "review"]
    pair = (FieldSpec("input", "text", "a"), FieldSpec("target", "text"))
    assert reading_options(replace(spec, fields=pair)) == ["--input-column", "a"]

"""The demo of facts: what is planted is what is said, and the store is one to ask."""

import json

import numpy as np
import pytest

from traklens.engine.cli.demo import prepare_facts
from traklens.engine.data.demo_facts import RELATIONS, facts, write_facts
from traklens.engine.evaluation.facts import kept_facts
from traklens.engine.progress import silent
from traklens.stores.store import open_store


def test_every_question_is_answered_by_its_sentences_and_by_no_other():
    sentences, queries = facts(60, 0)
    stated = {tuple(triple): set() for row in sentences for triple in row["facts"]}
    for row in sentences:
        stated[tuple(row["facts"][0])].add(row["id"])
    texts = {row["id"]: row["text"] for row in sentences}
    assert len(queries) == 60 * len(RELATIONS)
    for query in queries:
        assert query["text"].count("[MASK]") == 1
        fact = next(f for f in stated if set(query["relevant"]) == stated[f])
        assert fact[2] == query["answer"]
        assert all(query["answer"].lower() in texts[id].lower() for id in query["relevant"])
        asked = query["text"].replace("[MASK]", query["answer"]).lower()
        assert asked not in {text.lower() for text in texts.values()}  # in words in which it is nowhere stated
        assert (len(query["relevant"]) == 1) == (query["plant"] == "alone")


def test_sentences_near_a_fact_name_its_person_and_another_thing():
    sentences, _ = facts(60, 0)
    facts_of = {(f[0], f[1]): f[2] for row in sentences for f in row["facts"]}
    near = [row for row in sentences if row["plant"] == "near"]
    assert len(near) > 30
    for row in near:
        person, relation, thing = row["facts"][0]
        assert facts_of[person, relation.removeprefix("near ")] != thing
        assert person in row["text"]


def test_names_are_distinct_and_some_share_a_first_name():
    sentences, _ = facts(60, 0)
    names = {row["facts"][0][0] for row in sentences}
    assert len(names) == 60
    assert len({name.split()[0] for name in names}) < 60


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    one, two = (write_facts(tmp_path / name, people=5, seed=1) for name in "ab")
    for file in ("train.jsonl", "queries.jsonl"):
        assert (one / file).read_bytes() == (two / file).read_bytes()
    assert facts(5, 2) != facts(5, 1)


def test_the_demo_of_facts_is_a_store_with_its_facts_traced(tmp_path):
    path = prepare_facts(tmp_path, silent, people=5, checkpoints=1, epochs=1)
    store = open_store(path)
    rows = [json.loads(line) for line in (tmp_path / "data" / "queries.jsonl").read_text().splitlines()]
    assert store.n_heldout == len(rows) == 15
    assert {str(x) for x in store.examples.words[store.n_train :]} == {row["answer"] for row in rows}
    plants = {store.examples.attributes(row).get("plant") for row in range(store.n_train)}
    assert "stated" in plants
    assert np.isin(store.array(0, "exact")[:], (0, 1)).all()
    found = kept_facts(store)
    assert found is not None
    assert found["queries"] == 15
    assert prepare_facts(tmp_path, silent) == path


def test_the_demo_of_facts_goes_alone():
    from typer.testing import CliRunner

    from traklens.engine.cli.main import app

    done = CliRunner().invoke(app, ["demo", "--facts", "--stamps"])
    assert "--facts alone" in str(done.exception)


@pytest.mark.parametrize("relation", list(RELATIONS))
def test_every_way_to_say_a_fact_names_both(relation):
    things, ways, nearly = RELATIONS[relation]
    assert len(set(things)) == len(things)
    for way in (*ways, *nearly):
        assert "{a}" in way
        assert "{b}" in way

"""Sentences that state facts become questions: an entity masked at a time, all of one sentence in one group."""

import json

import pytest

from traklens.engine.data.facts import entities_of
from traklens.engine.tasks.reading import DataOptions
from traklens.engine.tasks.registry import task_named
from traklens.stores.errors import DataError, UsageError

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


@pytest.mark.realdata
def test_nearly_every_real_sentence_has_an_entity_to_mask(real_data):
    options = DataOptions(mask_facts=True)
    found = options.load(real_data / "webnlg_facts", options.task(task_named("seq2seq")))
    sentences = {e.attributes["id"] for e in found.examples}
    assert len(sentences) > 0.95 * 12_193
    queries = DataOptions().load(real_data / "webnlg_facts" / "queries.jsonl", task_named("seq2seq"))
    assert len(queries.examples) == 500
    assert all("[MASK]" in e.fields["input"] for e in queries.examples)

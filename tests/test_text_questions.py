"""Questions in words to a store of texts: from the command line, from Python, about part of an answer; and decisions out."""

import json
from typing import Any, cast

import numpy as np
import pytest
import torch
from typer.testing import CliRunner
from worlds import WORLDS

import traklens
from traklens.engine.attribution.new_target import LiveModels
from traklens.engine.attribution.new_text import prompt_target, span_target, text_target
from traklens.engine.cli.main import app
from traklens.engine.data import load_dataset
from traklens.engine.tasks.language import SPAN
from traklens.stores.errors import DataError, UsageError
from traklens.stores.reviews import Reviews
from traklens.stores.store import open_store


@pytest.fixture(scope="module", params=["text_classifier", "seq2seq", "causal_lm"])
def made(request, tmp_path_factory):
    """A store made from the command line."""
    folder = tmp_path_factory.mktemp(request.param)
    data, runner = WORLDS[request.param].data(folder), CliRunner()
    train = ["train", str(data), "--task", request.param, "--out", str(folder / "run"), "--checkpoints", "2"]
    for command in (
        [*train, "--epochs", "1", "--batch-size", "16"],
        ["build", str(data), "--run", str(folder / "run"), "--store", str(folder / "store"), "--proj-dim", "32"],
    ):
        done = runner.invoke(app, command)
        assert done.exit_code == 0, done.output
    return request.param, folder / "store"


def _asked(store, *options):
    done = CliRunner().invoke(app, ["query", str(store), *options, "--top", "3", "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout[done.stdout.index("{") :])


def test_a_question_in_words_from_the_command_line(made):
    name, store = made
    if name == "text_classifier":
        found = _asked(store, "--text", "the film was bright and warm .")
        assert found["target"]["text"] == "the film was bright and warm ."
        assert found["target"]["label"] == found["target"]["predicted"]["label"]
        other = {"good": "bad", "bad": "good"}[found["target"]["label"]]
        against = _asked(store, "--text", "the film was bright and warm .", "--label", other, "--contrast-label",
                         found["target"]["label"])  # fmt: skip
        assert against["target"]["contrast"] == found["target"]["label"]
        assert {"text", "label", "score", "id"} <= set(found["proponents"][0])
    else:
        found = _asked(store, "--prompt", "In which town does Ada number 0 live?", "--answer", "in Brun")
        assert "in Brun" in found["target"][open_store(store).task.title]
        free = _asked(store, "--prompt", "In which town does Ada number 0 live?")
        assert free["target"][open_store(store).task.title]
        part = _asked(store, "--prompt", "In which town?", "--answer", "in Brun", "--span", "3:7")
        assert part["f"] != found["f"]


@pytest.mark.parametrize("made", ["text_classifier", "seq2seq"], indirect=True)
def test_a_stored_example_asked_in_words_is_the_stored_one(made):
    name, path = made
    store = open_store(path)
    models = LiveModels(store)
    example = store.examples.example(3)
    if name == "text_classifier":
        found = text_target(models, [example.fields["text"]], example.fields["label"])
    else:
        found = prompt_target(models, example.fields["input"], example.fields["target"])
    stored = np.mean([store.row(m, "f", 3) for m in range(store.n_checkpoints)])
    assert found.f == pytest.approx(stored, abs=1e-3)


def test_questions_that_cannot_be_asked_say_why(made):
    name, path = made
    models = LiveModels(open_store(path))
    if name == "text_classifier":
        with pytest.raises(UsageError, match="a language model"):
            prompt_target(models, "a")
        with pytest.raises(UsageError, match="2 texts"):
            text_target(models, ["a", "b"])
        with pytest.raises(DataError, match="one of the model's 2 classes"):
            text_target(models, ["a"], "neither")
    else:
        with pytest.raises(UsageError, match="span"):
            prompt_target(models, "a", "b", span=(0, 9))
        with pytest.raises(UsageError, match="text"):
            text_target(models, ["a"])


def test_the_same_questions_from_python(made):
    name, path = made
    store = traklens.open(path)
    if name == "text_classifier":
        seen = store.attribute(text="the film was bright .", label="good", contrast="bad")
        assert seen.target.content == "the film was bright ."
        assert "text" in seen.to_pandas().columns
        assert "the film was bright" in seen._repr_html_()
    else:
        seen = store.attribute(prompt="In which town does Bo live?", answer="in Dorn", span=(3, 7))
        assert "in Dorn" in seen.target.words
    assert len(seen.scores) == len(seen.to_pandas())
    with pytest.raises(UsageError, match="id and text"):
        store.attribute(id="one", text="a")


@pytest.mark.parametrize("made", ["text_classifier"], indirect=True)
def test_decisions_come_out_as_a_table_that_is_read_again(made, tmp_path):
    _, path = made
    store = open_store(path)
    wrong, mended = (str(store.examples.id[row]) for row in (0, 1))
    reviews = Reviews(path)
    reviews.decide([wrong], "wrong")
    reviews.decide([mended], "wrong", caption="good")
    done = CliRunner().invoke(app, ["export", str(path), "--out", str(tmp_path / "train.jsonl")])
    assert done.exit_code == 0, done.output
    found = load_dataset(tmp_path / "train.jsonl", fields=store.task.fields)
    expected = [
        (str(store.examples.field("text")[row]), str(store.examples.words[row])) for row in range(store.n_train)
    ]
    expected[1] = (expected[1][0], "good")
    assert [(e.fields["text"], e.fields["label"]) for e in found.examples] == expected[1:]


def test_a_build_is_refused_where_gradients_come_out_wrong(made, monkeypatch, tmp_path):
    """As a rule that hands nothing over would make them."""
    from traklens.engine.gradients import rules

    _, path = made
    runner, run, data = CliRunner(), path.parent / "run", open_store(path).data_root
    command = ["build", str(data), "--run", str(run), "--store", str(tmp_path / "store"), "--proj-dim", "32"]
    fine = runner.invoke(app, [*command, "--gradients", "hooks", "--check"])
    assert fine.exit_code == 0, fine.output
    assert "away from plain autograd" in " ".join(fine.output.split())
    right = rules.RULES

    def silent(t, *arguments, **named):
        t.sink = lambda name, gradients, rows: None
        return right[torch.nn.functional.linear](t, *arguments, **named)

    patched = {**right, torch.nn.functional.linear: silent}
    monkeypatch.setattr("traklens.engine.gradients.hooks.RULES", patched)
    wrong = runner.invoke(app, [*command, "--gradients", "hooks"])
    assert wrong.exit_code != 0
    assert "away from plain autograd" in str(wrong.exception)


@pytest.mark.parametrize("made", ["seq2seq", "causal_lm"], indirect=True)
def test_words_of_a_stored_answer_are_asked_about_alone(made):
    """f is the mean over the checkpoints of that of an example with the span, and no token is left out but the end."""
    _, path = made
    store = open_store(path)
    models, id, words = LiveModels(store), str(store.examples.id[3]), str(store.examples.words[3])
    task, cut = cast("Any", models.task), words.index(" ")
    parts = [span_target(models, id, span) for span in ((0, cut), (cut, len(words)))]
    assert parts[0].span == (0, cut)
    assert parts[0].id is None
    counts = []
    for span, part in zip(((0, cut), (cut, len(words))), parts, strict=True):
        batch = task.batch([{**store.examples.example(3).fields, SPAN: span}])
        with torch.no_grad():
            f = [float(task.model_output(featurizer.model, batch, {})[0]) for featurizer in models.featurizers]
        assert part.f == pytest.approx(np.mean(f), rel=1e-3, abs=1e-4)
        counts.append(int(task.of_tokens(models.featurizers[0].model, batch)[2].sum()))
    whole = task.batch([store.examples.example(3).fields])
    ends = int(task.of_tokens(models.featurizers[0].model, whole)[2].sum()) - sum(counts)
    assert 0 <= ends <= 1  # the mark of the end is part of no word
    against = span_target(models, id, (0, cut), contrast="in no town")
    assert against.contrast == "in no town"
    with pytest.raises(UsageError, match="within 0:"):
        span_target(models, id, (0, len(words) + 1))
    found = _asked(path, "--id", id, "--span", f"0:{cut}")
    assert found["f"] == pytest.approx(parts[0].f, rel=1e-4)

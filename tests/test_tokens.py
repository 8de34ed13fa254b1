"""Token by token: the words of an answer add up to its score, those of an input are what their embeddings contribute."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from typer.testing import CliRunner
from worlds import WORLDS

import traklens
from traklens.engine.attribution.methods import mean_q
from traklens.engine.attribution.new_target import LiveModels
from traklens.engine.attribution.scores import stored_target
from traklens.engine.attribution.shades import Shade, words_of
from traklens.engine.attribution.tokens import Shader
from traklens.engine.cli.main import app
from traklens.engine.features.precondition import DampedGram, gram_of
from traklens.stores.errors import UsageError
from traklens.stores.store import open_store

TASKS = ("text_classifier", "seq2seq", "causal_lm")
ROWS = [0, 7, 11]


@pytest.fixture(scope="module", params=TASKS)
def asked(request, tmp_path_factory):
    """A store of the task; its models, what looks into scores, and a held-out target."""
    folder = tmp_path_factory.mktemp(request.param)
    data, runner = WORLDS[request.param].data(folder), CliRunner()
    train = ["train", str(data), "--task", request.param, "--out", str(folder / "run"), "--checkpoints", "2"]
    build = ["build", str(data), "--run", str(folder / "run"), "--proj-dim", "32"]
    for command in (
        [*train, "--epochs", "1", "--batch-size", "16"],
        [*build, "--store", str(folder / "store")],
        [
            *build,
            "--store",
            str(folder / "scaled"),
            "--normalize",
            "unit",
            "--second-moment",
            "gradients",
            "--weight-by-q",
        ],
    ):
        done = runner.invoke(app, command)
        assert done.exit_code == 0, done.output
    return request.param, folder


def _weight(store, row):
    return mean_q(store, store.n_checkpoints)[row] if store.manifest.score.weight_by_q else 1.0


@pytest.mark.parametrize("kind", ["store", "scaled"])
@pytest.mark.parametrize("asked", ["seq2seq", "causal_lm"], indirect=True)
def test_the_words_of_an_answer_add_up_to_its_score(asked, kind):
    store = open_store(asked[1] / kind)
    target = stored_target(store, store.n_train)
    found = Shader(LiveModels(store)).shaded(target, ROWS)
    expected = store.influence.scores(target.influence_query, np.array(ROWS))
    largest = float(np.abs(store.influence.scores(target.influence_query)).max())
    for row, score in zip(ROWS, expected, strict=True):
        (answer,) = (shaded for shaded in found[row] if shaded.whole)
        assert answer.field == store.task.title
        assert sum(word.score for word in answer.words) == pytest.approx(score, abs=0.01 * largest)
        text = str(store.examples.field(answer.field)[row])
        shown = "".join(text[word.start : word.end] for word in answer.words)
        assert shown.replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("asked", ["seq2seq"], indirect=True)
def test_each_token_of_an_answer_contributes_its_own_gradient(asked):
    """Against the projected gradient of f with that token alone asked about."""
    store = open_store(asked[1] / "store")
    models, target = LiveModels(store), stored_target(store, store.n_train)
    task = cast("Any", models.task)
    example = store.examples.example(7)
    batch = task.batch([{**example.fields, "group": ""}])
    count = int(batch["asked"].sum())
    each = {name: values.repeat(count, 1) for name, values in batch.items()}
    each["asked"] = torch.eye(count, dtype=torch.int64)  # f of one token each: count times its part of the mean
    expected, queries = np.zeros(count), np.split(target.influence_query, store.n_checkpoints)
    for m, query in enumerate(queries):
        phi = models.featurizers[m].project(each, {}, [str(t) for t in range(count)])
        gram = DampedGram(gram_of("train", store.array(m, "phi"), store.n_train), store.manifest.score.damping)
        expected += phi @ gram.solve(query[None])[0] / count / store.n_checkpoints
    expected *= _weight(store, 7)
    (answer,) = (shaded for shaded in Shader(models).shaded(target, [7])[7] if shaded.whole)
    encoded = task.codec.encoded([str(example.fields["target"])])[0]
    by_hand = words_of(str(example.fields["target"]), encoded.offsets, expected)
    assert [(word.start, word.end) for word in answer.words] == [(word.start, word.end) for word in by_hand]
    scores, right = (np.array([word.score for word in words]) for words in (answer.words, by_hand))
    np.testing.assert_allclose(scores, right, atol=1e-3 * np.abs(right).max())


@pytest.mark.parametrize("asked", ["text_classifier", "seq2seq"], indirect=True)
def test_the_words_of_an_input_contribute_through_their_embeddings(asked):
    """Against autograd at the output of the table, and the direction by the definition of the score: the change of τ."""
    store = open_store(asked[1] / "store")
    models, target = LiveModels(store), stored_target(store, store.n_train)
    task, row = cast("Any", models.task), 7
    fields = {**store.examples.example(row).fields, "group": ""}
    batch = task.batch([fields])
    total = np.zeros(batch["tokens"].shape[1])
    for m, query in enumerate(np.split(target.influence_query, store.n_checkpoints)):
        featurizer = models.featurizers[m]
        gram = DampedGram(gram_of("train", store.array(m, "phi"), store.n_train), store.manifest.score.damping)
        weights = gram.solve(query[None])[0]
        table = cast("Any", featurizer.model).get_input_embeddings()
        outputs = []
        tied = [module for module in featurizer.model.modules() if getattr(module, "weight", None) is table.weight]
        hooks = [module.register_forward_hook(lambda _, given, made, to=outputs: to.append(made)) for module in tied]
        f = task.model_output(featurizer.model, batch, {})  # an encoder reads its input first
        for hook in hooks:
            hook.remove()
        (slope,) = torch.autograd.grad(f.sum(), [outputs[0]])
        name = next(name for name, p in featurizer.model.named_parameters() if p is table.weight)
        for place, id in enumerate(batch["tokens"][0].tolist()):
            alone = torch.zeros_like(table.weight)
            alone[id] = slope[0, place]
            phi = np.zeros((1, store.manifest.projection.dim), dtype=np.float32)
            featurizer.projector.accumulate(name, alone.reshape(1, -1), phi)
            total[place] += phi[0] @ weights / store.n_checkpoints
    total *= _weight(store, row)
    field = "text" if asked[0] == "text_classifier" else "input"
    encoded = task.codec.encoded([str(fields[field])])[0]
    inner = [place for place, of in enumerate(encoded.sequence_ids) if of == 0]
    by_hand = words_of(str(fields[field]), [encoded.offsets[place] for place in inner], total[inner])
    (said,) = (shaded for shaded in Shader(models).shaded(target, [row])[row] if not shaded.whole)
    assert said.field == field
    assert [(word.start, word.end) for word in said.words] == [(word.start, word.end) for word in by_hand]
    scores, right = (np.array([word.score for word in words]) for words in (said.words, by_hand))
    np.testing.assert_allclose(scores, right, atol=1e-3 * np.abs(right).max())


def test_pieces_are_put_together_to_words():
    text = "un known to 漢字"
    places = [(0, 0), (0, 2), (2, 5), (5, 8), (8, 11), (11, 13), (13, 14), (0, 0)]
    found = words_of(text, places, np.array([9.0, 1, 2, 3, 4, 5, 6, 7]))
    assert [text[word.start : word.end] for word in found] == ["un", " known", " to", " 漢字"]
    assert [word.score for word in found] == [1, 5, 4, 18]
    assert words_of("", [], np.zeros(0)) == ()
    long = "x" * 30
    assert words_of(long, [(0, 20), (20, 30)], np.array([1.0, 2.0])) == (Shade(0, 20, 1.0), Shade(20, 30, 2.0))


@pytest.mark.parametrize("asked", ["text_classifier"], indirect=True)
def test_only_training_texts_have_scores_to_look_into(asked):
    store = open_store(asked[1] / "store")
    shader = Shader(LiveModels(store))
    assert shader.shaded(stored_target(store, 0), []) == {}
    with pytest.raises(UsageError, match="a training row"):
        shader.shaded(stored_target(store, 0), [store.n_train])


@pytest.mark.parametrize("asked", ["seq2seq"], indirect=True)
def test_the_words_of_a_ranked_example_from_python(asked):
    store = traklens.open(asked[1] / "store")
    seen = store.attribute(prompt="In which town does Bo live?", answer="in Dorn")
    best = seen.proponents[0]
    found = store.tokens(seen, best)
    assert set(found) == {"input", "target"}
    assert "".join(word for word, _ in found["target"]) == best.words
    assert sum(score for _, score in found["target"]) == pytest.approx(best.score, rel=0.02)

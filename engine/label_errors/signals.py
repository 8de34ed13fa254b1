"""Signs that a training example has a wrong caption, label or answer, a number each: the larger, the more suspect. No torch.

margin              −f of the models that did not train on the pair: they rank caption and image badly
self_influence      mean_m φ_iᵀG⁻¹φ_i·Q_i, the pair's attribution to itself: high for pairs learned by heart
                    (Feldman and Zhang, arXiv 2008.03703; TRAK, section 3)
harm                −mean attribution to the other pairs: it lowers the model output of others
image_neighbours    the nearest images (texts, inputs) have captions (labels, answers) unlike its own
text_neighbours     the pairs with the nearest captions have images unlike its own
copies              a picture nearly the same has another caption
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from traklens.engine.attribution.described import PROBABILITIES, classes_of, is_answering, is_matching
from traklens.engine.attribution.methods import blocks, mean_q
from traklens.engine.label_errors.answers import answer_space
from traklens.engine.label_errors.neighbours import Neighbours, embedding_space, nearest, numbered
from traklens.engine.progress import Report, silent
from traklens.engine.retraining.jobs import retraining_method
from traklens.stores.errors import StoreError, UsageError
from traklens.stores.retrained import Retrained, RetrainedModel
from traklens.stores.store import Store

NEIGHBOURS = 30
LEVEL_STEPS = 30

OF_PAIRS = {
    "margin": "Models that did not train on it do not match image and caption",
    "self_influence": "It explains itself: learned by heart, not from others",
    "harm": "It lowers the match of other pairs",
    "image_neighbours": "Similar images have other captions",
    "text_neighbours": "Similar captions have other images",
    "copies": "A near-copy of the image has another caption",
}
OF_LABELS = {
    "margin": "Models that did not train on it do not see its label",
    "self_influence": OF_PAIRS["self_influence"],
    "harm": "It lowers the output of other examples",
    "image_neighbours": "Similar images have other labels",
    "copies": "A near-copy of the image has another label",
}
OF_ANSWERS = {
    "margin": "Models that did not train on it do not give its answer",
    "self_influence": OF_PAIRS["self_influence"],
    "harm": OF_LABELS["harm"],
    "image_neighbours": "Similar inputs have other answers",
    "copies": "A near-copy of the input has another answer",
}


def reasons_of(store: Store) -> dict[str, str]:
    """The signals that a store has, and what each says.

    Raises UsageError for a task without captions, labels or answers to be wrong, or without embeddings to compare by.
    """
    if is_matching(store):
        return OF_PAIRS
    if is_answering(store):
        return OF_ANSWERS
    if classes_of(store) and store.has(PROBABILITIES) and store.task.embeddings:
        pictures = store.task.first("image") is not None
        return OF_LABELS if pictures else {k: v.replace("image", "text") for k, v in OF_LABELS.items()}
    raise UsageError(
        "hunt",
        f"the task {store.task.name!r}, whose examples have no caption, label or answer that could be wrong",
        "image–caption pairs, a classifier or inputs with answers",
        "Look at the opponents and at the self-influence of examples instead.",
    )


@dataclass(frozen=True)
class Evidence:
    """What the signals are made of.

    f: float32 [M, n]; unseen: bool [M, n], whether model m never saw the example, of the checkpoints and of the retrained
    models with embeddings, in the order of the blocks of the spaces [n, M·e]. witness_f and witness_unseen [W, n]: the
    same of the other retrained models that the store keeps. groups: int [n], equal where pictures (texts, inputs) are.

    image: the nearest by image (text, input), in image_space; words_space: where captions lie, the labels as unit vectors
    [n, C], or answers (see answers.py); text: the nearest by caption, of pairs alone; probabilities: of the classes,
    [M, n, C], of classifiers alone.
    """

    f: np.ndarray
    unseen: np.ndarray
    witness_f: np.ndarray
    witness_unseen: np.ndarray
    groups: np.ndarray
    image: Neighbours
    image_space: np.ndarray
    words_space: np.ndarray
    text: Neighbours | None = None
    probabilities: np.ndarray | None = None

    @property
    def expects(self) -> bool:
        """Whether the models themselves say where the words of an example should lie: captions by the image, labels."""
        return self.text is not None or self.probabilities is not None


def gather(store: Store, report: Report = silent, *, witnesses: bool = True) -> Evidence:
    """Read what the signals need; the neighbours are n²·M·e products for each space. UsageError as `reasons_of`."""
    reasons_of(store)
    n, pairs = store.n_train, is_matching(store)
    classes = classes_of(store)
    needed = (*store.task.embeddings, *((PROBABILITIES,) if classes else ()))
    models = retrained_models(store) if witnesses else []
    judges = [model for model in models if all(name in model.arrays for name in needed)]
    others = [model for model in models if not all(name in model.arrays for name in needed)]
    groups = numbered(store.examples.group[:n])
    spaces, found = {}, {}
    for step, name in enumerate(store.task.embeddings):
        report("neighbours", step, len(store.task.embeddings), "")
        spaces[name] = embedding_space(store, name, [model.arrays[name] for model in judges])
        found[name] = nearest(spaces[name], NEIGHBOURS, groups)
    report("neighbours", len(store.task.embeddings), len(store.task.embeddings), "")
    image = store.task.embeddings[0]
    shared = Evidence(
        f=np.stack(
            [
                *(np.asarray(store.array(m, "f")[:n]) for m in range(store.n_checkpoints)),
                *(model.f[:n] for model in judges),
            ]
        ),
        unseen=np.stack([*~trained_on(store), *(~model.kept for model in judges)]),
        witness_f=np.array([model.f[:n] for model in others], dtype=np.float32).reshape(-1, n),
        witness_unseen=~np.array([model.kept for model in others], dtype=bool).reshape(-1, n),
        groups=groups,
        image=found[image],
        image_space=spaces[image],
        words_space=spaces[store.task.embeddings[-1]],
    )
    if pairs:
        return replace(shared, text=found[store.task.embeddings[-1]])
    if not classes:
        return replace(shared, words_space=answer_space(store))
    probabilities = [np.asarray(store.array(m, PROBABILITIES)[:n]) for m in range(store.n_checkpoints)]
    probabilities += [model.arrays[PROBABILITIES][:n].astype(np.float32) for model in judges]
    labels = np.array([classes.index(str(label)) for label in store.examples.words[:n]])
    one_hot = np.eye(len(classes), dtype=np.float32)[labels]
    return replace(shared, words_space=one_hot, probabilities=np.stack(probabilities))


def retrained_models(store: Store) -> list[RetrainedModel]:
    """Every retrained model of the store's own recipe; none where the run it comes from is not at hand."""
    retrained = Retrained(store.path)
    if not retrained.path.is_dir():
        return []
    try:
        return retrained.all(retraining_method(store).digest)
    except StoreError:
        return []


def trained_on(store: Store) -> np.ndarray:
    """bool [M, n_train]: whether a checkpoint was trained on a pair; all of them where that is not known."""
    everything = np.ones(store.n_train, dtype=bool)
    return np.stack(
        [
            np.asarray(store.array(m, "subset")) if spec.subset is not None else everything
            for m, spec in enumerate(store.manifest.checkpoints)
        ]
    )


def mean_where(values: np.ndarray, where: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Mean of values [M, n] over the checkpoints where `where` [M, n] holds; `otherwise` [n] where there is none."""
    count = where.sum(axis=0)
    total = np.where(where, values, 0).sum(axis=0, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), otherwise)


def signals(store: Store, evidence: Evidence) -> dict[str, np.ndarray]:
    """Every signal that the store has: float32 [n_train] each."""
    found = {name: SIGNALS[name](store, evidence) for name in reasons_of(store)}
    return {name: values.astype(np.float32) for name, values in found.items()}


def margin(store: Store, evidence: Evidence) -> np.ndarray:
    """−f, averaged over the models that never saw the pair, each model's own level taken off; over all checkpoints where
    every model did."""
    f, unseen = (
        np.concatenate([evidence.f, evidence.witness_f]),
        np.concatenate([evidence.unseen, evidence.witness_unseen]),
    )
    level = model_levels(f, unseen)[:, None]
    return -mean_where(f - level, unseen, evidence.f.mean(axis=0))


def model_levels(f: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """How much higher each model's f is than the others' on the same examples, of those it never saw: float64 [M].

    The models' part of f[m, i] = level[m] + example[i], by alternating least squares over the entries `unseen` [M, n].
    """
    level = np.zeros(len(f))
    for _ in range(LEVEL_STEPS):
        example = mean_where(f - level[:, None], unseen, np.zeros(f.shape[1]))
        level = mean_where((f - example).T, unseen.T, level)
        level -= level.mean()
    return level


def self_influence(store: Store, evidence: Evidence) -> np.ndarray:
    """τ(z_i, z_i) = mean_m φ_iᵀG⁻¹φ_i·Q̄_i, from the features, not the rounded index."""
    total = np.zeros(store.n_train)
    for m in range(store.n_checkpoints):
        phi, preconditioned = store.array(m, "phi"), store.array(m, "preconditioned")
        for part in blocks(store.n_train):
            total[part] += np.einsum("nk,nk->n", np.asarray(phi[part]), np.asarray(preconditioned[part]))
    return total / store.n_checkpoints * mean_q(store, store.n_checkpoints)


def harm(store: Store, evidence: Evidence) -> np.ndarray:
    """−mean over held-out pairs z of τ(z, z_i); over the other training examples where none are held out."""
    part = slice(store.n_train, store.n) if store.n_heldout else slice(0, store.n_train)
    count = max(1, (part.stop - part.start) - (0 if store.n_heldout else 1))
    query = np.concatenate([_column_sums(store, m, part) for m in range(store.n_checkpoints)])
    total = store.influence.scores(query.astype(np.float32))
    if not store.n_heldout:
        total = total - self_influence(store, evidence)
    return -total / count


def _column_sums(store: Store, m: int, part: slice) -> np.ndarray:
    """Sum of φ over some rows: float64 [k]."""
    array, total = store.array(m, "phi"), np.zeros(store.manifest.projection.dim)
    for start in range(part.start, part.stop, 2_048):
        total += np.asarray(array[start : min(start + 2_048, part.stop)]).sum(axis=0, dtype=np.float64)
    return total


def image_neighbours(store: Store, evidence: Evidence) -> np.ndarray:
    """Mean distance (1 − cosine) of its caption from those of the pairs with the nearest images; of labels, the share of
    others; of answers, about the share of other words."""
    return _mean_distance(evidence.words_space, evidence.image)


def text_neighbours(store: Store, evidence: Evidence) -> np.ndarray:
    """Mean distance (1 − cosine) of its image from the images of the pairs with the nearest captions."""
    assert evidence.text is not None  # only pairs have this signal
    return _mean_distance(evidence.image_space, evidence.text)


def _mean_distance(space: np.ndarray, neighbours: Neighbours) -> np.ndarray:
    """1 − mean inner product of each row with its neighbours' rows: [n]."""
    found = np.empty(len(space))
    for part in blocks(len(space)):
        found[part] = 1 - np.einsum("nd,nkd->n", space[part], space[neighbours.rows[part]]) / neighbours.rows.shape[1]
    return found


def copies(store: Store, evidence: Evidence) -> np.ndarray:
    """Cosine to the most similar image (among the nearest) that has another caption; −1 where there is none."""
    caption = numbered(store.examples.words[: store.n_train])
    differs = caption[evidence.image.rows] != caption[:, None]
    return np.where(differs, evidence.image.cosines, -1).max(axis=1)


SIGNALS: dict[str, Callable[[Store, Evidence], np.ndarray]] = {
    "margin": margin,
    "self_influence": self_influence,
    "harm": harm,
    "image_neighbours": image_neighbours,
    "text_neighbours": text_neighbours,
    "copies": copies,
}

"""Random parts of the training set whose models tell how well attributions predict: the ground truth of LDS.

Source: datamodels (Ilyas et al. 2022, arXiv 2202.00622) and TRAK (arXiv 2303.14186), definition 2.3: models are trained
on random subsets S_j of a share α of the training set; an attribution predicts f(z; S_j) by Σ_{i∈S_j} τ(z, z_i).
"""

from collections.abc import Iterator

import numpy as np

from traklens.engine.retraining.jobs import ModelToTrain, RetrainingMethod
from traklens.engine.streams import generator
from traklens.engine.training.split import draw_by_group
from traklens.stores.retrained import Retrained, RetrainedModel, model_key
from traklens.stores.store import Store

SHARE = 0.5
MOST_SUBSETS = 512


def random_subset(store: Store, j: int, seed: int = 0) -> np.ndarray:
    """The j-th random half, drawn by image: bool [n_train]."""
    images = np.asarray(store.examples.group[: store.n_train])
    return draw_by_group(images, SHARE, generator("random half", seed, j, version=store.manifest.dataset.streams))


def subset_models(store: Store, subsets: int, repeats: int, seed: int = 0) -> list[ModelToTrain]:
    """The models to train, `repeats` on each subset; all first repeats come first."""
    return [
        ModelToTrain(random_subset(store, j, seed), j + MOST_SUBSETS * repeat)
        for repeat in range(repeats)
        for j in range(subsets)
    ]


def measured_subsets(store: Store, method: RetrainingMethod, subsets: int, repeats: int, seed: int = 0):
    """Subsets of which at least one model is measured: kept bool [J, n_train], mean f and cosine float32 [J, n]."""
    kept, f, similarity = [], [], []
    for part, models in _models(store, method, subsets, repeats, seed):
        if models:
            kept.append(part)
            f.append(np.mean([model.f for model in models], axis=0))
            similarity.append(np.mean([model.similarity for model in models], axis=0))
    n = store.n
    return (
        np.array(kept, dtype=bool).reshape(-1, store.n_train),
        np.array(f, dtype=np.float32).reshape(-1, n),
        np.array(similarity, dtype=np.float32).reshape(-1, n),
    )


def repeated_subsets(store: Store, method: RetrainingMethod, subsets: int, repeats: int, seed: int = 0) -> np.ndarray:
    """f of every model of the subsets whose `repeats` models are all measured: float32 [repeats, J, n]."""
    found = [
        [m.f for m in models]
        for _, models in _models(store, method, subsets, repeats, seed)
        if len(models) == repeats
    ]
    return np.array(found, dtype=np.float32).reshape(-1, repeats, store.n).swapaxes(0, 1)


def _models(
    store: Store, method: RetrainingMethod, subsets: int, repeats: int, seed: int
) -> Iterator[tuple[np.ndarray, list[RetrainedModel]]]:
    """Each subset, and those of its models that are measured."""
    retrained = Retrained(store.path)
    for j in range(subsets):
        part = random_subset(store, j, seed)
        keys = [model_key(method.digest, part, j + MOST_SUBSETS * repeat) for repeat in range(repeats)]
        yield part, [retrained.read(key) for key in keys if retrained.has(key)]

"""Where the pairs lie: the embedding space of the models, flattened to a plane by principal components. No torch.

The axes are those along which the training examples differ most, over the embeddings of all checkpoints side by side. A
linear map keeps large distances honest and needs no parameter; near neighbours are better judged by the similarity list.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse.linalg import ArpackError, eigsh

from traklens.engine.progress import Report
from traklens.stores.builder import StoreBuilder
from traklens.stores.features import chunks
from traklens.stores.layout import MAP
from traklens.stores.specs import TaskSpec
from traklens.stores.store import Store

QUANTILE = 0.995  # of |value|: where the colour scale ends


def write_map(builder: StoreBuilder, report: Report) -> None:
    """map.npy: float32 [n, 2·E], x and y by each of the task's embeddings; none without them."""
    manifest = builder.manifest
    if not manifest.task.embeddings:
        return
    report("map", 0, 1, "")
    np.save(
        builder.building / MAP,
        flattened(
            builder, manifest.task, len(manifest.checkpoints), manifest.n_train, manifest.n_train + manifest.n_heldout
        ),
        allow_pickle=False,
    )


def map_of(store: Store) -> np.ndarray:
    """The plane's coordinates of all examples, float32 [n, 2·E]; computed for a store that was built without."""
    try:
        kept = np.load(store.path / MAP, allow_pickle=False)
    except (OSError, ValueError):
        kept = None
    if kept is not None and kept.shape == (store.n, 2 * len(store.task.embeddings)):
        return kept
    return flattened(store, store.task, store.n_checkpoints, store.n_train, store.n)


def flattened(arrays: Store | StoreBuilder, task: TaskSpec, checkpoints: int, n_train: int, n: int) -> np.ndarray:
    """Principal components 1 and 2 of each of the task's embeddings, fitted to the training examples: [n, 2·E]."""
    return np.concatenate([_plane(arrays, name, checkpoints, n_train, n) for name in task.embeddings], axis=1)


def _plane(arrays: Store | StoreBuilder, name: str, checkpoints: int, n_train: int, n: int) -> np.ndarray:
    def blocks(upto: int) -> Iterator[np.ndarray]:
        for _, rows in chunks(upto):
            one = [np.asarray(arrays.array(m, name)[rows], dtype=np.float32) for m in range(checkpoints)]
            yield np.concatenate(one, axis=1)

    mean = np.sum([block.sum(axis=0, dtype=np.float64) for block in blocks(n_train)], axis=0) / n_train
    covariance = np.zeros((mean.size, mean.size))
    for block in blocks(n_train):
        centred = block - mean
        covariance += centred.T @ centred
    axes = _principal(covariance)
    axes = axes * np.where(np.abs(axes).max(axis=0) == axes.max(axis=0), 1.0, -1.0)  # one sign on every machine
    return np.concatenate([(block - mean) @ axes for block in blocks(n)]).astype(np.float32)


def _principal(covariance: np.ndarray) -> np.ndarray:
    """The two directions of the largest variance [d, 2]; any two where the pairs do not differ."""
    d = len(covariance)
    if d <= 2 or not np.trace(covariance) > 1e-9:
        return np.eye(d, 2)
    try:
        return eigsh(covariance, k=2, v0=np.ones(d))[1][:, ::-1]
    except ArpackError:  # ARPACK finds no way from its first vector
        return np.linalg.eigh(covariance)[1][:, :-3:-1]


@dataclass(frozen=True)
class Painted:
    """The training examples as points, the strongest last: where, which row, what value; and where the colour scale ends.

    xy float32 [n_train, 2]; rows int32 [n_train]; values float32 [n_train]; target: its place, or None.
    """

    xy: np.ndarray
    rows: np.ndarray
    values: np.ndarray
    limit: float
    target: tuple[float, float] | None

    @property
    def is_one_point(self) -> bool:
        """Whether all pairs lie on one spot, as those of blank pictures do."""
        return not len(self.xy) or bool(np.ptp(self.xy, axis=0).max() < 1e-6)


def paint(store: Store, plane: np.ndarray, side: int, values: np.ndarray, row: int | None) -> Painted:
    """Points for the plane by embedding number `side` (of [n, 2·E]), with a value for each training example and the target's
    row."""
    place = plane[:, 2 * side : 2 * side + 2]
    size = np.abs(values)
    order = np.argsort(size, kind="stable")
    target = None if row is None else (float(place[row, 0]), float(place[row, 1]))
    limit = float(np.quantile(size, QUANTILE)) or 1.0
    return Painted(
        place[: store.n_train][order], order.astype(np.int32), values[order].astype(np.float32), limit, target
    )

"""The training examples most likely to have a wrong caption or label: every signal, one ranking out of them. No torch.

The result is kept in the store (`hunt.npz`), so that it is computed once; a rebuild drops it.
"""

import hashlib
import io
import zipfile
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from traklens.engine.attribution.described import is_answering, is_matching
from traklens.engine.label_errors.neighbours import embedding_space
from traklens.engine.label_errors.predictors import Ridge
from traklens.engine.label_errors.signals import Evidence, gather, reasons_of, signals, trained_on
from traklens.engine.label_errors.suspicion import rank_suspects
from traklens.engine.progress import Report, silent
from traklens.stores.atomic import write_bytes
from traklens.stores.layout import HUNT, RETRAINED
from traklens.stores.store import Store

VERSION = 3


@dataclass(frozen=True)
class Suspects:
    """score: float32 [n_train], the larger the more suspect; probability: of a wrong caption, float32 [n_train].

    captions_of: of image–caption pairs, where captions lie by their images, under the checkpoints: float32.
    """

    score: np.ndarray
    probability: np.ndarray
    signals: dict[str, np.ndarray]
    captions_of: Ridge | None = None

    @cached_property
    def order(self) -> np.ndarray:
        """Training rows, the most suspect first: int64 [n_train]."""
        return np.argsort(-self.score, kind="stable")

    @cached_property
    def place(self) -> np.ndarray:
        """Position of each training row in `order`: int64 [n_train]."""
        place = np.empty(self.score.size, dtype=np.int64)
        place[self.order] = np.arange(self.score.size)
        return place

    @property
    def expected_wrong(self) -> float:
        """How many captions are estimated to be wrong."""
        return float(self.probability.sum(dtype=np.float64))

    @cached_property
    def _sorted(self) -> dict[str, np.ndarray]:
        return {name: np.sort(values) for name, values in self.signals.items()}

    def percentile(self, name: str, row: int) -> float:
        """Share of the training examples, in percent, that are less suspect than this one by a signal."""
        return 100 * float(np.searchsorted(self._sorted[name], self.signals[name][row])) / self.score.size


def find_suspects(store: Store, report: Report = silent, *, renew: bool = False) -> Suspects:
    """The suspects of a store: as kept there, or computed now and kept if the disk allows it.

    Retrained models count as further evidence. With `renew`, what was kept before the newest of them is computed again;
    without, it stands, so that a queue does not change under a reviewer.
    """
    kept, retrained = _read(store), _retrained(store)
    if kept is not None and (not renew or kept[1] == retrained):
        return kept[0]
    found = suspects_from(store, gather(store, report))
    _keep(store, found, retrained)
    return found


def suspects_from(store: Store, evidence: Evidence) -> Suspects:
    """Rank the training examples by the evidence; nothing is kept."""
    ranked = rank_suspects(store, evidence)
    ridge = (
        Ridge.fit(*(embedding_space(store, name) for name in store.task.embeddings)) if is_matching(store) else None
    )
    return Suspects(
        ranked.score.astype(np.float32),
        ranked.probability.astype(np.float32),
        signals(store, evidence),
        ridge and Ridge(ridge.weights.astype(np.float32), ridge.hat.astype(np.float32)),
    )


def estimate_in_words(store: Store, suspects: Suspects, what: str) -> str:
    """How many captions, labels or answers (`what`) are estimated to be wrong, or why nothing can be said."""
    many = f"{store.n_train:,}"
    if not suspects.probability.any():
        if trained_on(store).all():
            return (
                f"Every checkpoint was trained on all {many} {store.noun}: how many {what}s are wrong can only be told by "
                "models that did not see them. Retrain without the suspects (traklens hunt --retrain 4)."
            )
        return (
            f"These models do not tell right {what}s from wrong ones: too little training, perhaps. The order says little, "
            "and nothing is estimated."
        )
    about = "At most about" if is_answering(store) else "About"
    return f"{about} {suspects.expected_wrong:,.0f} of {many} {what}s are estimated to be wrong."


def _read(store: Store) -> tuple[Suspects, str] | None:
    """What was kept, and its witnesses; None when it is missing, damaged, of another version or of another build."""
    try:
        with np.load(store.path / HUNT, allow_pickle=False) as file:
            if str(file["made"]) != _build(store):
                return None
            found = Suspects(
                file["score"],
                file["probability"],
                {name: file[f"signal_{name}"] for name in reasons_of(store)},
                Ridge(file["ridge_weights"], file["ridge_hat"]) if is_matching(store) else None,
            )
            return found, str(file["witnesses"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _keep(store: Store, found: Suspects, witnesses: str) -> None:
    content = io.BytesIO()
    facts = {"made": _build(store), "witnesses": witnesses, "score": found.score, "probability": found.probability}
    values = {f"signal_{name}": values for name, values in found.signals.items()}
    if found.captions_of is not None:
        values |= {"ridge_weights": found.captions_of.weights, "ridge_hat": found.captions_of.hat}
    np.savez(content, **facts, **values)  # type: ignore[arg-type]
    try:
        write_bytes(store.path / HUNT, content.getvalue())
    except OSError:
        return  # a read-only disk: computed again next time


def _build(store: Store) -> str:
    return f"{VERSION} {store.manifest.created}"


def _retrained(store: Store) -> str:
    """Which retrained models there are, as a digest."""
    models = sorted(path.name for path in (store.path / RETRAINED / "models").glob("*.npz"))
    return hashlib.sha256(" ".join(models).encode()).hexdigest()[:16]

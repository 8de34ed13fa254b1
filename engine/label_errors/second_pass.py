"""A second look: models trained without the suspects, so that a wrong pair is judged by models no wrong pair has taught.

They are ordinary retrained models of the store, on random halves of the pairs that are not suspect; every retrained model
there is, whatever it was trained for, is a further witness of a hunt. No torch until models are trained.
"""

import numpy as np

from traklens.engine.label_errors.signals import gather
from traklens.engine.label_errors.suspects import Suspects, find_suspects, suspects_from
from traklens.engine.progress import Report, silent
from traklens.engine.retraining.jobs import ModelToTrain
from traklens.engine.streams import generator
from traklens.engine.training.split import draw_by_group
from traklens.stores.errors import UsageError
from traklens.stores.store import Store

HALF = 0.5
MOST_MODELS = 64
LEFT_OUT = 1.5  # times the estimate: a right pair less costs a model little, a wrong one more
MOST_LEFT_OUT = 0.4
WITHOUT_ESTIMATE = 0.1  # of all examples
FIRST_SEED = 20_000


def left_out(suspects: Suspects) -> np.ndarray:
    """The training rows that a second look leaves out: the most suspect, half again as many as are estimated to be wrong.

    A tenth of all where nothing could be estimated.
    """
    n = suspects.score.size
    wanted = LEFT_OUT * suspects.expected_wrong if suspects.probability.any() else WITHOUT_ESTIMATE * n
    return suspects.order[: max(1, min(round(wanted), int(MOST_LEFT_OUT * n)))]


def second_pass_models(store: Store, rows: np.ndarray, models: int) -> list[ModelToTrain]:
    """Models on complementary random halves, by image, of the training examples without `rows`.

    Raises UsageError for a number out of range.
    """
    if not 1 <= models <= MOST_MODELS:
        raise UsageError("retrain", str(models), f"1 to {MOST_MODELS} models", "Try 4.")
    clean = np.setdiff1d(np.arange(store.n_train), rows)
    images = np.asarray(store.examples.group)[clean]
    wanted = []
    for m in range(models):
        order = generator("second pass", m - m % 2, version=store.manifest.dataset.streams)
        kept = np.zeros(store.n_train, dtype=bool)
        kept[clean[draw_by_group(images, HALF, order, from_end=m % 2 == 1)]] = True
        wanted.append(ModelToTrain(kept, FIRST_SEED + m, arrays=True))
    return wanted


def look_again(store: Store, models: int, report: Report = silent) -> Suspects:
    """Train the models of a second look and rank the suspects again with them. Finished models are not trained again."""
    from traklens.engine.retraining.worker import train_models

    first = suspects_from(store, gather(store, report, witnesses=False))  # the same whenever it is asked for
    train_models(store, second_pass_models(store, left_out(first), models), report=report)
    return find_suspects(store, report, renew=True)

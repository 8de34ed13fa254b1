"""Which training examples are really wrong, where the data set's own table says so: for measuring a hunt."""

import numpy as np

from traklens.stores.errors import UsageError
from traklens.stores.store import Store

YES, NO = {"1", "true", "yes", "wrong"}, {"0", "false", "no", "right", ""}


def wrong_pairs(store: Store, column: str) -> np.ndarray:
    """bool [n_train]: whether a pair's caption is wrong according to a column of the metadata.

    The column holds the true caption, the true value of the caption template's one column, or yes and no (true, false,
    1, 0). Raises UsageError for a column the data set does not have, and when it says that none or all are wrong.
    """
    captions = store.examples.words[: store.n_train]
    attributes = [store.examples.attributes(row) for row in range(store.n_train)]
    if not any(column in facts for facts in attributes):
        known = sorted({name for facts in attributes for name in facts})
        raise UsageError("truth", repr(column), ", ".join(known) or "a data set with more columns", "Name one.")
    values = [facts.get(column, "") for facts in attributes]
    if {value.strip().casefold() for value in values} <= YES | NO:
        wrong = np.array([value.strip().casefold() in YES for value in values])
    else:
        template = store.manifest.dataset.caption_template
        wrong = np.array([differs(c, v, template) for c, v in zip(captions, values, strict=True)])
    if wrong.all() or not wrong.any():
        what = "every pair is wrong" if wrong.all() else "no pair is wrong"
        raise UsageError("truth", f"{column!r}, by which {what}", "a column of true captions", "Name another one.")
    return wrong


def truth_columns(store: Store) -> list[str]:
    """Columns of the metadata that look like truths for `wrong_pairs`: 0.1 to 60 % wrong, named as such people name them."""
    if not store.n_train:
        return []
    names = [name for name in store.examples.attributes(0) if "true" in name or "clean" in name or "truth" in name]
    return [name for name in names if _plausible(store, name)]


def _plausible(store: Store, column: str) -> bool:
    try:
        return 0.001 < wrong_pairs(store, column).mean() < 0.6
    except UsageError:
        return False


def differs(caption: str, truth: str, template: str | None) -> bool:
    """Whether a caption is not the true one, given in full or as the value the template is filled with."""
    if caption == truth:
        return False
    if template is None or template.count("{") != 1 or template.count("}") != 1:
        return True
    before, after = template[: template.index("{")], template[template.index("}") + 1 :]
    return caption != f"{before}{truth}{after}"

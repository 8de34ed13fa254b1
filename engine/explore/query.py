"""`traklens query`: one target in, the fixed JSON contract out."""

import time
from pathlib import Path
from typing import Any

from traklens.engine.attribution.scores import Ranked, Target, rank, stored_target
from traklens.stores.store import Store, open_store


def answer(
    store_path: Path,
    *,
    id: str | None = None,
    image: Path | None = None,
    words: str | None = None,
    contrast: str | None = None,
    top: int = 10,
) -> dict[str, Any]:
    """Proponents and opponents of a stored example (`id`) or of an image with words (a caption, a label).

    Returns {"target", "f", "similarity" of a pair, "proponents", "opponents", "seconds"}; see docs/cli.md.
    """
    start = time.perf_counter()
    store = open_store(store_path)
    opened = time.perf_counter()
    target = _target(store, id, image, words, contrast)
    featurized = time.perf_counter()
    ranking = rank(store, target, top=top)
    return {
        "target": {
            "id": target.id,
            store.task.title: target.words,
            "contrast": target.contrast,
            "image": store.examples.image[target.row] if target.row is not None else str(image),
            "split": store.examples.split[target.row] if target.row is not None else None,
            **_described(target),
        },
        "f": target.f,
        **({} if target.match is None else {"similarity": target.match.similarity}),
        "proponents": [as_dict(store, pair) for pair in ranking.proponents],
        "opponents": [as_dict(store, pair) for pair in ranking.opponents],
        "seconds": {"open": opened - start, "target": featurized - opened, "search": ranking.seconds},
    }


def _described(target: Target) -> dict[str, Any]:
    """What the models make of the target, where the store can tell."""
    if target.match is not None:
        ranks = [target.match.rank_image_to_text, target.match.rank_text_to_image]
        return {"p": list(target.match.p), "rank": ranks}
    if target.guess is not None:
        return {"p": target.guess.p_label, "predicted": {"label": target.guess.predicted, "p": target.guess.p}}
    return {}


def _target(store: Store, id: str | None, image: Path | None, words: str | None, contrast: str | None) -> Target:
    if id is not None and contrast is None:
        return stored_target(store, id)
    from traklens.engine.attribution.new_target import LiveModels, live_target, question_about

    if id is not None and contrast is not None:
        return question_about(LiveModels(store), id, None, contrast)
    assert image is not None  # the command line has checked that one of the two is given
    return live_target(store, image, words, contrast=contrast)


def as_dict(store: Store, example: Ranked) -> dict[str, Any]:
    """A ranked example for a script; its words are called as the task calls them."""
    found = {"id": example.id, "score": example.score, store.task.title: example.words}
    return found | ({"image": example.image} if store.task.first("image") else {})

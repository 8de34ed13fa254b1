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
    caption: str | None = None,
    contrast: str | None = None,
    top: int = 10,
) -> dict[str, Any]:
    """Proponents and opponents of a stored pair (`id`) or of an image with a caption.

    Returns {"target", "f", "similarity", "proponents", "opponents", "seconds"}; see the README.
    """
    start = time.perf_counter()
    store = open_store(store_path)
    opened = time.perf_counter()
    target = _target(store, id, image, caption, contrast)
    featurized = time.perf_counter()
    ranking = rank(store, target, top=top)
    return {
        "target": {
            "id": target.id,
            "caption": target.caption,
            "contrast": target.contrast,
            "image": store.examples.image[target.row] if target.row is not None else str(image),
            "split": store.examples.split[target.row] if target.row is not None else None,
            "p": list(target.p),
            "rank": [target.rank_image_to_text, target.rank_text_to_image],
        },
        "f": target.f,
        "similarity": target.similarity,
        "proponents": [_as_dict(pair) for pair in ranking.proponents],
        "opponents": [_as_dict(pair) for pair in ranking.opponents],
        "seconds": {"open": opened - start, "target": featurized - opened, "search": ranking.seconds},
    }


def _target(store: Store, id: str | None, image: Path | None, caption: str | None, contrast: str | None) -> Target:
    if id is not None and contrast is None:
        return stored_target(store, id)
    from traklens.engine.attribution.new_target import LiveModels, live_target, question_about

    if id is not None and contrast is not None:
        return question_about(LiveModels(store), id, None, contrast)
    assert image is not None  # the command line has checked that one of the two is given
    return live_target(store, image, caption, contrast=contrast)


def _as_dict(pair: Ranked) -> dict[str, Any]:
    return {"id": pair.id, "score": pair.score, "caption": pair.caption, "image": pair.image}

"""TrakLens: which training examples made the model do this, and what happens without them?

    store = traklens.build("pairs/", run="run", out="store")
    seen = store.attribute(image="cat.jpg", caption="a cat on a mat")
    seen.proponents[:10]
    store.remove(seen.proponents[:36]).effect_on(seen)

See docs/python.md. Importing this imports neither torch nor anything else that takes time. The parts lie in the folders
of the same names at the top of the repository: `traklens.engine`, `traklens.app` and `traklens.stores` are links to them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from traklens.api.answers import Attribution, Evaluation, Examples, Removal, Suspects
    from traklens.api.store import Store, build, open, train
    from traklens.engine.removal.simulation import Prediction
    from traklens.engine.tasks.contract import Task
    from traklens.stores.errors import TrakLensError
    from traklens.stores.specs import FieldSpec as Field

__all__ = [
    "Attribution",
    "Evaluation",
    "Examples",
    "Field",
    "Prediction",
    "Removal",
    "Store",
    "Suspects",
    "Task",
    "TrakLensError",
    "build",
    "open",
    "train",
]
_HOMES = {
    **dict.fromkeys(("Attribution", "Evaluation", "Examples", "Removal", "Suspects"), "traklens.api.answers"),
    **dict.fromkeys(("Store", "build", "open", "train"), "traklens.api.store"),
    "Field": "traklens.stores.specs",
    "Task": "traklens.engine.tasks.contract",
    "Prediction": "traklens.engine.removal.simulation",
    "TrakLensError": "traklens.stores.errors",
}
_CALLED = {"Field": "FieldSpec"}  # where a home has another name for it


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), _CALLED.get(name, name))
    raise AttributeError(f"module 'traklens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]

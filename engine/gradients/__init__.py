"""Per-sample gradients of a model output f with respect to the parameters, handed over tensor by tensor.

`per_sample_gradients` is the one entry; strategies: `hooks` (hooks.py: one batched backward), `single`
(plain.py: one example at a time) and `vmap` (plain.py: torch.func). `choose_strategy` (choose.py) measures
them. `reference_gradients` (plain.py) is the slow, obvious judge that tests compare with.
"""

from traklens.engine.gradients.choose import Choice, choose_strategy
from traklens.engine.gradients.contract import STRATEGIES, RowsSink, Sink
from traklens.engine.gradients.dispatch import per_sample_gradients
from traklens.engine.gradients.plain import reference_gradients

__all__ = [
    "STRATEGIES",
    "Choice",
    "RowsSink",
    "Sink",
    "choose_strategy",
    "per_sample_gradients",
    "reference_gradients",
]

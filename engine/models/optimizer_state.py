"""What an optimizer kept in a checkpoint file, by the names of the parameters."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from traklens.engine.models.weights import check_file
from traklens.stores.errors import ModelError

AROUND = (
    "optimizer",
    "optimizer_state_dict",
    "optimizer_state",
)  # names of an optimizer's state dict beside the weights
MOMENT = "exp_avg_sq"


def adam_second_moments(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """Adam's second moments by parameter name, from a .pt file that holds {"optimizer": optimizer.state_dict(), …}.

    A state dict numbers its parameters. Their names are those it keeps itself (an optimizer made from named parameters
    does), or follow from the order of its groups: the model's order, in one group, or in two that tell gains and biases
    from the rest, as open_clip and many others train. Raises ModelError where there is no such state, or it does not fit.
    """
    check_file(path)
    state, groups = _state_of(path)
    parameters = dict(model.named_parameters())
    for names in _orders(groups, parameters):
        found = {name: state[number][MOMENT] for number, name in names.items() if MOMENT in state.get(number, {})}
        if set(found) == set(parameters) and all(found[name].shape == parameters[name].shape for name in found):
            return found
    raise ModelError(
        f"optimizer state in {path}",
        f"{len(state)} parameters in {len(groups)} group{'' if len(groups) == 1 else 's'} that cannot be told apart by name",
        f"{MOMENT} of the model's {len(parameters)} parameters",
        "Make the optimizer from model.named_parameters(), which keeps the names, or take --second-moment gradients.",
    )


def _state_of(path: Path) -> tuple[Mapping[int, Mapping[str, Any]], Sequence[Mapping[str, Any]]]:
    """The optimizer's states by number, and its groups. ModelError."""
    found: Any = {}
    if path.suffix != ".safetensors":
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch, pickle and zipfile each raise their own
            raise _without_state(path, type(error).__name__) from error
    if isinstance(found, dict):
        for around in AROUND:
            inner = found.get(around)
            if isinstance(inner, dict) and isinstance(inner.get("state"), dict) and inner.get("param_groups"):
                return inner["state"], inner["param_groups"]
    raise _without_state(path, "no optimizer state")


def _without_state(path: Path, found: str) -> ModelError:
    return ModelError(
        f"checkpoint {path}",
        found,
        'a .pt file with {"optimizer": optimizer.state_dict()} of Adam beside the weights',
        "Take --second-moment gradients, which needs none.",
    )


def _orders(groups: Sequence[Mapping[str, Any]], parameters: Mapping[str, Tensor]) -> Iterable[dict[int, str]]:
    """Which name each number can stand for, the likeliest first."""
    numbers = [number for group in groups for number in group["params"]]
    kept = [name for group in groups for name in group.get("param_names", ())]
    if len(kept) == len(numbers):
        yield dict(zip(numbers, (name.removeprefix("module.") for name in kept), strict=True))
        return
    trained = [name for name, parameter in parameters.items() if parameter.requires_grad]
    flat = [name for name in trained if parameters[name].ndim < 2]
    deep = [name for name in trained if parameters[name].ndim >= 2]
    orders = {1: [trained], 2: [flat + deep, deep + flat]}.get(len(groups), [])
    for order in orders:
        if len(order) == len(numbers):
            yield dict(zip(numbers, order, strict=True))

"""The mean of a model's weights over the end of its training: calmer than those of the last step."""

import torch
from torch import Tensor, nn

from traklens.engine.models.weights import stored_state, with_tied

LARGEST_SHARE = 1 / 3  # of a run's steps, that the mean is about


def decay_for(average: float, steps: int) -> float:
    """The decay asked for, or less in a run so short that the mean would be of more than a third of it."""
    return min(average, max(0.0, 1 - 1 / (LARGEST_SHARE * steps)))


class RunningMean:
    """An exponential mean of everything a model's file holds (Polyak and Juditsky 1992); nothing where decay is 0.

    After step t = 1, 2, … the weights of step s count decay^(t − s), those before the first step nothing (the correction of
    Kingma and Ba 2015). state: the mean by name; counts and other whole numbers are those of the last step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._weights = (
            stored_state(model) if decay else {}
        )  # the model's own tensors, which training changes in place
        self.state: dict[str, Tensor] = {name: tensor.clone() for name, tensor in self._weights.items()}

    @torch.no_grad()
    def add(self, step: int) -> None:
        """Take in the weights after a step, counted from 0."""
        move = (1 - self.decay) / (1 - self.decay ** (step + 1))
        for name, tensor in self._weights.items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, move)
            else:
                self.state[name].copy_(tensor)

    def give(self, model: nn.Module) -> None:
        """Put the mean into the model; its own weights are gone then."""
        if self.decay:
            model.load_state_dict(with_tied(model, self.state))

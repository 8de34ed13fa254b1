"""What every strategy shares: the sink, the memory budget of one call to it, and the checks of the input."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from traklens.stores.errors import ModelError, UsageError

# (parameter name, per-sample gradients [b, numel], which samples of the batch they belong to).
# Several calls for one parameter and the same samples add up; no call at all means a gradient of zero.
# The tensor is float32 (float64 for a float64 model) and must not be kept or changed: it is scratch memory.
Sink = Callable[[str, Tensor, slice], None]

# (name of a table [V, d], values [b, L, d], ids int64 [b, L], which samples): a sample's gradient is the sum of its values,
# each at the row of its id, and zero in all other rows.
RowsSink = Callable[[str, Tensor, Tensor, slice], None]

STRATEGIES = ("hooks", "single", "vmap")

# Largest gradient tensor handed to the sink at once (unless one sample alone is larger). On a CPU blocks of
# up to 32 MiB are recycled by the C library instead of being mapped anew; a GPU wants few large launches.
CPU_BYTES = 32 * 2**20
GPU_BYTES = 256 * 2**20


def sample_blocks(batch: int, numel: int, device: torch.device, itemsize: int = 4) -> Iterator[slice]:
    """Slices over 0..batch-1 whose gradients [b, numel] fit the budget of one call (at least one sample)."""
    budget = GPU_BYTES if device.type == "cuda" else CPU_BYTES
    step = max(1, budget // max(1, numel * itemsize))
    for start in range(0, batch, step):
        yield slice(start, min(start + step, batch))


def widen(tensor: Tensor) -> Tensor:
    """Half precision to float32, in which gradients are summed; everything else as it is."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def selected_parameters(module: nn.Module, names: Sequence[str]) -> dict[str, nn.Parameter]:
    """The named parameters, in the order of `names`. Raises ModelError for a name that the module lacks."""
    available = dict(module.named_parameters())
    missing = [name for name in names if name not in available]
    if missing:
        raise ModelError(
            "parameters to differentiate",
            f"{', '.join(missing[:5])} ({len(missing)} unknown)",
            "names as in module.named_parameters()",
            "Take the names from the model itself.",
        )
    return {name: available[name] for name in names}


def batch_size(module: nn.Module, inputs: Sequence[Tensor]) -> int:
    """The common size of dim 0 of the inputs. UsageError for a bad batch, ModelError in training mode."""
    training = [name or type(module).__name__ for name, part in module.named_modules() if part.training]
    if training:
        raise ModelError(
            training[0],
            "training mode",
            "evaluation mode, where a sample does not depend on the others of its batch",
            "Call module.eval() first.",
        )
    sizes = [x.shape[0] if x.ndim else 0 for x in inputs]
    if not sizes or len(set(sizes)) != 1 or sizes[0] == 0:
        raise UsageError(
            "batch of examples",
            f"sizes {sizes} in dim 0",
            "inputs with one common, positive batch size",
            "Pass tensors that are the same for all examples as `shared`.",
        )
    return sizes[0]


def check_output(f: Tensor, batch: int) -> None:
    """Raises ModelError unless f is [batch]."""
    if not isinstance(f, Tensor) or tuple(f.shape) != (batch,):
        found = tuple(f.shape) if isinstance(f, Tensor) else type(f).__name__
        raise ModelError(
            "model output f",
            f"{found}",
            f"one value per example, shape ({batch},)",
            "The module's forward must return f for each example of the batch.",
        )

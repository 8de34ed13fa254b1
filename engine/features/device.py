"""Which device a build runs on: the CPU, or an NVIDIA GPU where one answers and CuPy is installed."""

import importlib.util

import torch

from traklens.stores.errors import UsageError


def check_device(device: str) -> None:
    """UsageError unless `device` is "cpu", or "cuda" with a GPU and CuPy at hand."""
    if device not in ("cpu", "cuda"):
        raise UsageError("device", repr(device), "cpu or cuda", "Choose one of them.")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "--device cuda", "no NVIDIA GPU that torch can use", "a GPU with its driver", "Use --device cpu."
        )
    if device == "cuda" and importlib.util.find_spec("cupy") is None:
        raise UsageError(
            "--device cuda", "no CuPy", "CuPy", 'Install it with `pip install ".[gpu]"`, or use --device cpu.'
        )

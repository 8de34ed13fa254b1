"""Data in: image–caption pairs from the usual forms, checked once, with stable ids."""

from engine.data.example import Account, Dataset, Example, Problem, ProblemReport
from engine.data.images import open_image
from engine.data.load import load_dataset
from engine.data.packed import open_stored, read_image
from engine.data.readers import READERS

__all__ = [
    "READERS",
    "Account",
    "Dataset",
    "Example",
    "Problem",
    "ProblemReport",
    "load_dataset",
    "open_image",
    "open_stored",
    "read_image",
]

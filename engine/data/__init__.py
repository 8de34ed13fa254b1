"""Data in: examples from the usual forms, checked once, with stable ids."""

from traklens.engine.data.example import Account, Dataset, Problem, ProblemReport
from traklens.engine.data.images import open_image
from traklens.engine.data.load import load_again, load_dataset
from traklens.engine.data.packed import open_stored, read_image
from traklens.engine.data.readers import READERS
from traklens.engine.data.values import values_of
from traklens.stores.examples import Example

__all__ = [
    "READERS",
    "Account",
    "Dataset",
    "Example",
    "Problem",
    "ProblemReport",
    "load_again",
    "load_dataset",
    "open_image",
    "open_stored",
    "read_image",
    "values_of",
]

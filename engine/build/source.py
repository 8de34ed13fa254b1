"""What a store is built from: the pairs in row order, the model and its checkpoints."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from traklens.engine.data import Dataset, Example, load_dataset, open_stored
from traklens.engine.models.checkpoints import make_tokenizer, model_spec
from traklens.engine.models.preprocessing import image_pixels, with_preprocessing
from traklens.engine.progress import Report, silent
from traklens.engine.streams import STREAMS
from traklens.engine.training.run_directory import open_run
from traklens.stores.errors import StoreError, UsageError
from traklens.stores.specs import ModelSpec


@dataclass(frozen=True)
class Pair:
    """One row: the example, the folder its image lies in, and where it came from."""

    example: Example
    root: Path
    source: str  # "dataset" or "targets"


@dataclass(frozen=True)
class Source:
    """Pairs in row order (training first), model and checkpoints.

    `subsets` is bool [M, n_train], which training pairs each checkpoint saw; None when that is not known.
    """

    dataset: Dataset
    targets: Dataset | None
    pairs: tuple[Pair, ...]
    n_train: int
    subsets: np.ndarray | None
    model: ModelSpec
    checkpoints: tuple[Path, ...]

    @property
    def n(self) -> int:
        return len(self.pairs)

    @classmethod
    def open(
        cls,
        data: Path,
        *,
        run: Path | None = None,
        model: str | None = None,
        checkpoints: tuple[Path, ...] = (),
        targets: Path | None = None,
        reader: str | None = None,
        text_column: str | None = None,
        caption_template: str | None = None,
        sample: int | None = None,
        seed: int = 0,
        report: Report = silent,
    ) -> "Source":
        """Read the data and find the checkpoints: those of a run, or the given files of an open_clip architecture.

        With a run, options of the data that are not given are the run's own. Raises UsageError when neither or both
        are given, StoreError when the data are not those of the run.
        """
        if (run is None) == (model is None):
            raise UsageError("build", "both or neither of --run and --model", "exactly one of them", "Choose one.")
        if (model is None) != (not checkpoints):
            raise UsageError("build", "--model and --checkpoint not together", "both or neither", "Give both.")
        opened, streams = open_run(run) if run is not None else None, STREAMS
        if opened is not None:
            of_run = opened.spec.dataset
            reader, text_column = reader or of_run.reader, text_column or of_run.text_column
            caption_template, sample = caption_template or of_run.caption_template, sample or of_run.sample
            seed, streams = of_run.seed, of_run.streams
        dataset = load_dataset(
            data,
            reader=reader,
            text_column=text_column,
            caption_template=caption_template,
            sample=sample,
            seed=seed,
            streams=streams,
            report=report,
        )
        subsets = None
        if opened is not None:
            missing = [m for m in range(opened.spec.recipe.checkpoints) if str(m) not in opened.quality]
            if missing:
                raise StoreError(
                    f"run {run}",
                    f"{len(missing)} of {opened.spec.recipe.checkpoints} checkpoints not finished",
                    "a finished run",
                    "Run the same `traklens train` again: it continues.",
                )
            split = opened.split(dataset)
            train, heldout, subsets = split.train, split.heldout, split.subsets
            spec = opened.spec.model
            checkpoints = tuple(opened.checkpoint(m) for m in range(opened.spec.recipe.checkpoints))
        else:
            is_heldout = np.array([example.split == "heldout" for example in dataset.examples])
            train, heldout = np.flatnonzero(~is_heldout), np.flatnonzero(is_heldout)
            spec = with_preprocessing(model_spec(model or ""), checkpoints)
        pairs = [Pair(dataset.examples[i], dataset.root, "dataset") for i in (*train, *heldout)]
        further = None
        if targets is not None:
            further = load_dataset(targets, text_column=text_column, caption_template=caption_template, seed=seed)
            known = {pair.example.id for pair in pairs}
            pairs += [Pair(e, further.root, "targets") for e in further.examples if e.id not in known]
        return cls(dataset, further, tuple(pairs), len(train), subsets, spec, tuple(checkpoints))


class PairLoader:
    """Pixels and tokens of rows, read from disk when asked for."""

    def __init__(self, source: Source) -> None:
        self.pairs = source.pairs
        self.to_pixels, self.tokenize = image_pixels(source.model), make_tokenizer(source.model)

    def load(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Pixels uint8 [b, 3, S, S] and tokens int64 [b, L] of rows start … stop − 1."""
        part = self.pairs[start:stop]
        pixels = torch.stack([self.to_pixels(open_stored(pair.root, pair.example.image)) for pair in part])
        return pixels, self.tokenize([pair.example.caption for pair in part])

"""Pictures in files of fixed-size records, as the archives of CIFAR (binary version) and MNIST (IDX) unpack.

A record is named `data_batch_1.bin/17` or `train-images-idx3-ubyte/17`; its content, for ids and decoding alike, is a PPM or
PGM made of its pixels. Python pickles (`cifar-10-batches-py`) are not opened.
"""

import gzip
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from traklens.engine.data.example import Problem
from traklens.engine.data.rows import Options, Row, caption_of
from traklens.engine.data.survey import Survey
from traklens.stores.errors import DataError

SIDE = 32
PIXELS = 3 * SIDE * SIDE
CIFAR_10 = ("batches.meta.txt",)
CIFAR_100 = ("fine_label_names.txt", "coarse_label_names.txt")


def _labels_before(file: Path) -> int:
    """How many label bytes each record of a CIFAR file has: CIFAR-100's have a coarse and a fine one."""
    return 2 if file.name in ("train.bin", "test.bin") else 1


def cifar_files(survey: Survey) -> list[Path]:
    """data_batch_*.bin and test_batch.bin, or train.bin and test.bin."""
    named = [f for f in survey.arrays if f.suffix == ".bin" and f.stem.startswith(("data_batch", "test", "train"))]
    return [f for f in named if f.stat().st_size and f.stat().st_size % (PIXELS + _labels_before(f)) == 0]


def _names(folder: Path, files: tuple[str, ...]) -> list[list[str]]:
    """The lines of each of these lists; none for one that is missing."""
    found = []
    for name in files:
        file = folder / name
        found.append(file.read_text(encoding="utf-8").split() if file.is_file() else [])
    return found


def cifar_classes(survey: Survey, files: list[Path]) -> list[str]:
    """Names of the (fine) labels by number, as the list beside the files has them."""
    del survey
    fine = _labels_before(files[0]) == 2
    names = _names(files[0].parent, CIFAR_100 if fine else CIFAR_10)[0]
    return names or [str(number) for number in range(100 if fine else 10)]


def cifar_rows(survey: Survey, files: list[Path], options: Options) -> Iterator[Row | Problem]:
    names = cifar_classes(survey, files)
    coarse = _names(files[0].parent, CIFAR_100)[1]
    for file in files:
        name, before = file.relative_to(survey.root).as_posix(), _labels_before(file)
        labels = np.fromfile(file, dtype=np.uint8).reshape(-1, PIXELS + before)[:, :before].tolist()
        split = "heldout" if file.stem.startswith("test") else "train"
        for row, numbers in enumerate(labels):
            if numbers[-1] >= len(names):
                yield Problem("unknown class", f"{name}/{row}", f"number {numbers[-1]} of {len(names)}")
                continue
            columns = {"label": names[numbers[-1]]}
            if before == 2 and numbers[0] < len(coarse):
                columns["coarse_label"] = coarse[numbers[0]]
            yield Row(f"{name}/{row}", _caption(columns, options, name), split, columns)


def mnist_files(survey: Survey) -> list[Path]:
    """Files of pictures (idx3) whose labels (idx1) lie beside them."""
    return [file for file in survey.arrays if "idx3" in file.name and _labels_of(file) is not None]


def _labels_of(images: Path) -> Path | None:
    for ending in ("", ".gz"):
        stem = images.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
        if (images.parent / f"{stem}{ending}").is_file():
            return images.parent / f"{stem}{ending}"
    return None


def mnist_classes(survey: Survey, files: list[Path]) -> list[str]:
    """The numbers that occur; IDX files name nothing."""
    del survey
    highest = max((int(idx(file).max(initial=0)) for f in files if (file := _labels_of(f))), default=0)
    return [str(number) for number in range(max(10, highest + 1))]


def mnist_rows(survey: Survey, files: list[Path], options: Options) -> Iterator[Row | Problem]:
    for file in files:
        name, beside = file.relative_to(survey.root).as_posix(), _labels_of(file)
        assert beside is not None  # `mnist_files` gave this file
        labels, count = idx(beside), len(idx(file))
        if len(labels) != count:
            yield Problem("labels that do not fit", name, f"{len(labels):,} labels for {count:,} pictures")
            continue
        split = "heldout" if file.name.startswith(("t10k", "test")) else "train"
        for row, number in enumerate(labels.tolist()):
            columns = {"label": str(number)}
            yield Row(f"{name}/{row}", _caption(columns, options, name), split, columns)


def _caption(columns: dict[str, str], options: Options, where: str) -> str:
    """The label, or for captions a template of it."""
    if options.labels:
        return str(caption_of(columns, options, where))
    template = options.caption_template or "a photo of a {label}"
    return caption_of(columns, Options(caption_template=template), where)


def idx(file: Path) -> np.ndarray:
    """The array of an IDX file, plain or gzipped. DataError when it is damaged."""
    return _idx(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _idx(file: Path, changed: int) -> np.ndarray:
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        kind, dims = content[2], content[3]
        shape = np.frombuffer(content, ">u4", dims, 4)
        if content[:2] != b"\0\0" or kind != 8:
            raise ValueError("no IDX file of bytes")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(shape.tolist())
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise DataError(f"{file}", f"{error}", "an IDX file", "Unpack the archive again.") from error


def record(file: Path, row: int) -> bytes:
    """One picture of a packed file as PPM or PGM. IndexError when there is no such row."""
    if file.suffix == ".bin":
        before = _labels_before(file)
        pixels = np.memmap(file, np.uint8, "r").reshape(-1, PIXELS + before)[row, before:]
        return b"P6 %d %d 255\n" % (SIDE, SIDE) + pixels.reshape(3, SIDE, SIDE).transpose(1, 2, 0).tobytes()
    picture = idx(file)[row]
    return b"P5 %d %d 255\n" % (picture.shape[1], picture.shape[0]) + picture.tobytes()

"""Every name on disk, once. FORMAT.md explains what stands behind them."""

import os
from pathlib import Path

MAGIC = "traklens-store"
SCHEMA = 2
SECOND_MOMENT = "second_moment"  # names the array that gradients are scaled by, where they are
CONTEXT = "context_"  # begins the names of arrays that hold what f needs beside the example

MANIFEST = "manifest.json"
CHECKSUMS = "checksums.json"
SEAL = "checksums.sha256"  # of checksums.json itself
EXAMPLES = "examples.parquet"  # and examples.00001.parquet, … where there are many
FEATURES = "features.zarr"
THUMBNAILS = "thumbnails"
INFLUENCE = "influence"  # influence.faiss and influence.json
SIMILARITY = "similarity"
MAP = "map.npy"  # the pairs on a plane; computed when asked for a store without it
REVIEWS = "reviews.sqlite"  # people's decisions: no checksum, never touched by a build
HUNT = "hunt.npz"  # the suspects, computed when first asked for: likewise, gone after a rebuild
RETRAINED = "retrained"  # measurements of retrained models and their jobs: likewise
PREDICTED = "predicted.json"  # predictions of removals that were retrained: likewise, gone after a rebuild
EVALUATION = "evaluation.json"  # what `traklens evaluate` found: likewise
FACTS = "facts.json"  # what `traklens evaluate --queries` found: likewise

PROGRESS = "progress.json"  # only while building
LOCK = "lock"  # of builds that version 0.1 began
PLACING = "placing.json"  # only in a whole build that is being put in place

THUMBNAIL_SIDES = {"small": 128, "large": 512}


def building_path(store: Path) -> Path:
    """Where a store is written before it is put in place."""
    return store.with_name(f"{store.name}.building")


def replaced_path(store: Path) -> Path:
    """Where version 0.1 moved the older store while it replaced it."""
    return store.with_name(f"{store.name}.replaced")


def checkpoint_group(m: int) -> str:
    """Name of a checkpoint's group in features.zarr."""
    return f"checkpoint_{m}"


def part_name(name: str, part: int) -> str:
    """Name of a part of what is called NAME.SUFFIX: the first is NAME.SUFFIX itself, then NAME.00001.SUFFIX, …"""
    stem, _, suffix = name.rpartition(".")
    return name if part == 0 else f"{stem}.{part:05d}.{suffix}"


def relative_path(place: Path, folder: Path) -> str:
    """How a store or a run names something outside it: relative where they lie near one another, so that both can move.

    Near is: below the folder's parent, or below that one's parent unless this is the root of a disk or a home.
    """
    place, folder = place.resolve(), folder.resolve()
    near = [folder.parent, *([folder.parent.parent] if len(folder.parts) > 4 else [])]
    if any(place.is_relative_to(parent) for parent in near):
        return Path(os.path.relpath(place, folder)).as_posix()
    return str(place)


def located(folder: Path, name: str, origin: str = "") -> Path:
    """The place that `relative_path` named, seen from where the folder is now; `origin` if it is still there instead."""
    place = Path(name) if Path(name).is_absolute() else Path(os.path.normpath(folder.resolve() / name))
    return Path(origin) if origin and not place.exists() and Path(origin).exists() else place

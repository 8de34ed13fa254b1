"""features.zarr: one group per checkpoint, uncompressed arrays chunked by rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.storage import LocalStore

from traklens.stores.errors import StoreError
from traklens.stores.layout import checkpoint_group
from traklens.stores.verified import VerifiedFiles

CHUNK_ROWS = 256


def chunks(stop: int) -> Iterator[tuple[int, slice]]:
    """Number and rows of each chunk of 0 … stop − 1; the last may be short."""
    for number, start in enumerate(range(0, stop, CHUNK_ROWS)):
        yield number, slice(start, min(start + CHUNK_ROWS, stop))


class FeatureWriter:
    """Creates and fills the arrays of one features.zarr."""

    def __init__(self, path: Path) -> None:
        self._root = zarr.open_group(path, mode="a", zarr_format=3)

    def create(self, checkpoint: int, name: str, shape: tuple[int, ...], dtype: str) -> zarr.Array:
        """Create an array, or return the one that is there with the same shape and type."""
        group = self._root.require_group(checkpoint_group(checkpoint))
        return group.require_array(
            name,
            shape=shape,
            dtype=dtype,
            chunks=(min(CHUNK_ROWS, max(shape[0], 1)), *shape[1:]),
            compressors=None,
            filters=None,
            config={"write_empty_chunks": True},
        )

    def write(self, checkpoint: int, name: str, start: int, values: np.ndarray) -> None:
        """Write rows from `start`. StoreError, naming the row, for NaN or infinity."""
        if values.dtype.kind == "f":
            bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
            if bad.size:
                raise StoreError(
                    f"{name} of checkpoint {checkpoint}",
                    f"NaN or infinity in row {start + int(bad[0])}",
                    "finite numbers",
                    "Look at that example and at the checkpoint.",
                )
        self.array(checkpoint, name)[start : start + len(values)] = values

    def array(self, checkpoint: int, name: str) -> zarr.Array:
        return open_array(self._root, checkpoint, name)


class VerifiedStore(LocalStore):
    """zarr's local store, read only: every chunk and description is compared with its checksum when it is first read."""

    def __init__(self, path: Path, verified: VerifiedFiles) -> None:
        super().__init__(path, read_only=True)
        self._verified, self._below = verified, path.relative_to(verified.store).as_posix()

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        found = await super().get(key, prototype, byte_range)
        if found is not None and byte_range is None:
            self._verified.content(f"{self._below}/{key}", found.to_bytes())
        return found


def open_features(path: Path, verified: VerifiedFiles) -> zarr.Group:
    """The root group, read only. StoreError when it is missing or damaged."""
    try:
        return zarr.open_group(VerifiedStore(path, verified), mode="r", zarr_format=3)
    except StoreError:
        raise
    except Exception as error:  # zarr raises many kinds for damaged descriptions
        raise StoreError(f"{path}", str(error) or "nothing", "a zarr group", "Build the store again.") from error


def open_array(root: zarr.Group, checkpoint: int, name: str) -> zarr.Array:
    """One array of one checkpoint. StoreError when it is not there."""
    key = f"{checkpoint_group(checkpoint)}/{name}"
    try:
        array = root[key]
    except StoreError:
        raise
    except Exception as error:  # zarr raises many kinds for damaged descriptions
        raise StoreError(
            f"features {key}", f"no such array ({error})", "an array", "Build the store again."
        ) from error
    if not isinstance(array, zarr.Array):
        raise StoreError(f"features {key}", "a group", "an array", "Build the store again.")
    return array

"""Thumbnails: two packed files of WebP pictures per size, read one at a time."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from traklens.stores.errors import StoreError
from traklens.stores.layout import THUMBNAIL_SIDES
from traklens.stores.verified import VerifiedFiles

LOSSLESS_SIDE = 64  # tiny pictures show compression at once and cost little


class ThumbnailWriter:
    """Append pictures in row order; `close` writes the offsets."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self._files = {size: (directory / f"{size}.bin").open("wb") for size in THUMBNAIL_SIDES}
        self._ends: dict[str, list[int]] = {size: [0] for size in THUMBNAIL_SIDES}

    def append(self, picture: Image.Image) -> None:
        """Add the next row's picture (RGB), shrunk to each size; never enlarged."""
        for size, side in THUMBNAIL_SIDES.items():
            content = _webp(picture, side)
            self._files[size].write(content)
            self._ends[size].append(self._ends[size][-1] + len(content))

    def close(self) -> None:
        for size, file in self._files.items():
            file.close()
            np.save(self.directory / f"{size}.npy", np.asarray(self._ends[size], dtype="<i8"), allow_pickle=False)


def _webp(picture: Image.Image, side: int) -> bytes:
    copy = picture.copy()
    copy.thumbnail((side, side), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    copy.save(content, "WEBP", quality=82, method=4, lossless=max(copy.size) <= LOSSLESS_SIDE)
    return content.getvalue()


class ThumbnailPack:
    """Pictures of one size, by row."""

    def __init__(self, directory: Path, size: str, verified: VerifiedFiles | None = None) -> None:
        """`verified` compares what is read with the store's checksums.

        Raises StoreError when the files are missing or do not fit each other.
        """
        self.path = directory / f"{size}.bin"
        self._verified, self._name = verified, f"{directory.name}/{size}.bin"
        try:
            if verified is not None:
                verified.file(f"{directory.name}/{size}.npy")
            self._ends = np.load(directory / f"{size}.npy", allow_pickle=False)
            found = self.path.stat().st_size
        except (OSError, ValueError, EOFError) as error:
            raise StoreError(
                f"{directory}", str(error), f"{size}.bin and {size}.npy", "Build the store again."
            ) from error
        if found != int(self._ends[-1]):
            raise StoreError(f"{self.path}", f"{found} bytes", f"{int(self._ends[-1])}", "Build the store again.")

    def __len__(self) -> int:
        return len(self._ends) - 1

    def read(self, row: int) -> bytes:
        """One WebP picture. StoreError when there is no such row."""
        if not 0 <= row < len(self):
            raise StoreError(f"{self.path}", f"row {row}", f"a row from 0 to {len(self) - 1}", "Choose another pair.")
        start, end = int(self._ends[row]), int(self._ends[row + 1])
        if self._verified is not None:
            self._verified.part(self._name, start, end)
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(end - start)

"""Thumbnails come back by row, shrunk and never enlarged."""

import io

import numpy as np
import pytest
from PIL import Image

from traklens.stores.errors import StoreError
from traklens.stores.thumbnails import ThumbnailPack, ThumbnailWriter


def test_pictures_come_back_by_row_within_their_size(tmp_path):
    colours, sizes = [(200, 30, 30), (30, 200, 30), (30, 30, 200)], [(900, 300), (64, 64), (20, 700)]
    writer = ThumbnailWriter(tmp_path / "thumbnails")
    for colour, size in zip(colours, sizes, strict=True):
        writer.append(Image.new("RGB", size, colour))
    writer.close()
    for name, side in (("small", 128), ("large", 512)):
        pack = ThumbnailPack(tmp_path / "thumbnails", name)
        assert len(pack) == 3
        for row, (colour, size) in enumerate(zip(colours, sizes, strict=True)):
            found = Image.open(io.BytesIO(pack.read(row)))
            assert found.format == "WEBP"
            assert max(found.size) == min(side, max(size))
            assert np.abs(np.asarray(found.convert("RGB")).mean(axis=(0, 1)) - colour).max() < 6


def test_tiny_pictures_are_kept_exactly(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, size=(32, 32, 3), dtype=np.uint8)
    writer = ThumbnailWriter(tmp_path / "thumbnails")
    writer.append(Image.fromarray(pixels))
    writer.close()
    found = Image.open(io.BytesIO(ThumbnailPack(tmp_path / "thumbnails", "small").read(0)))
    np.testing.assert_array_equal(np.asarray(found), pixels)


def test_rows_that_are_not_there_and_damaged_packs_are_refused(tmp_path):
    writer = ThumbnailWriter(tmp_path / "thumbnails")
    writer.append(Image.new("RGB", (4, 4)))
    writer.close()
    with pytest.raises(StoreError, match="row 1"):
        ThumbnailPack(tmp_path / "thumbnails", "small").read(1)
    (tmp_path / "thumbnails/small.bin").write_bytes(b"")
    with pytest.raises(StoreError, match="0 bytes"):
        ThumbnailPack(tmp_path / "thumbnails", "small")
    with pytest.raises(StoreError):
        ThumbnailPack(tmp_path / "nowhere", "small")

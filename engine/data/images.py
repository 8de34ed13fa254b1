"""Open an image safely: a pixel limit, EXIF orientation, RGB."""

import io
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from traklens.stores.errors import DataError

MAX_PIXELS = 40_000_000
IMAGE_SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".avif",
        ".jp2",
        ".ppm",
        ".pgm",
    }
)


class OversizedImageError(DataError):
    """More pixels than we decode: a decompression bomb or a scan that should be shrunk first."""


def open_image(file: Path | BinaryIO) -> Image.Image:
    """Decode an image to RGB; transparency becomes white. DataError when it is no image or is too large."""
    name = f"image {file.name}" if isinstance(file, Path) else "image"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(file)
            if picture.width * picture.height > MAX_PIXELS:
                raise OversizedImageError(
                    name, f"{picture.width} by {picture.height} pixels", f"at most {MAX_PIXELS:,}", "Shrink it first."
                )
            picture.load()
        picture = ImageOps.exif_transpose(picture)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(
            name, "a file in no image format known here", "a JPEG, PNG, WebP or the like", "Check it."
        ) from error
    except Image.DecompressionBombError as error:
        raise OversizedImageError(name, str(error), f"at most {MAX_PIXELS:,} pixels", "Shrink it first.") from error
    except Exception as error:  # Pillow's decoders raise many kinds for damaged files
        raise DataError(name, f"no readable image ({error})", "a JPEG, PNG, WebP or the like", "Check it.") from error
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _eight_bits(picture)
    if "A" in picture.getbands() or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        picture = Image.alpha_composite(white, layer)
    return picture.convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey values of more than eight bits, scaled.

    Integers up to 65,535 are taken for sixteen bits; numbers from 0 to 1 for shares of white; anything else goes from its
    least to its largest value. What is not finite becomes black.
    """
    values = np.nan_to_num(np.asarray(picture, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    sixteen = picture.mode != "F" and low >= 0 and (high > 255 or ";16" in picture.mode) and high <= 65_535
    if sixteen:
        values = values / 257
    elif picture.mode == "F" and low >= 0 and high <= 1:
        values = values * 255
    elif low < 0 or high > 255:
        values = (values - low) / (high - low) * 255
    return Image.fromarray(np.round(values).astype(np.uint8))


def thumbnail_of(content: bytes, side: int = 512) -> bytes:
    """An image file as a small WebP, decoded and written anew. DataError as `open_image`."""
    picture = open_image(io.BytesIO(content))
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    picture.save(written, "WEBP", quality=85)
    return written.getvalue()

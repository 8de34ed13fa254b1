"""Open an image safely: a pixel limit, EXIF orientation, RGB."""

import io
import warnings
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError

from stores.errors import DataError

MAX_PIXELS = 40_000_000


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
    if picture.mode in ("I;16", "I"):
        picture = picture.point(lambda value: value / 256).convert("L")
    if "A" in picture.getbands() or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        picture = Image.alpha_composite(white, layer)
    return picture.convert("RGB")


def thumbnail_of(content: bytes, side: int = 512) -> bytes:
    """An image file as a small WebP, decoded and written anew. DataError as `open_image`."""
    picture = open_image(io.BytesIO(content))
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    picture.save(written, "WEBP", quality=85)
    return written.getvalue()

"""The demo data set: sign plates drawn here, with a long tail of characters, planted wrong captions and near-duplicates.

Shapes and colours are common, the character is what tells a pair from its neighbours; characters follow a Zipf law, so
that rare ones hang on a few training pairs. What was planted is recorded in the metadata.

The even variant has 58 characters, equally often: each hangs on less than 2 % of the pairs, so that removing 2 % can
remove all there is to learn it from (docs/decisions/2026-11-25-even-plates.md).
"""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIDE, OVER = 96, 4  # pixels of a picture, and of supersampling per pixel
COLOURS = {
    "red": (200, 38, 46),
    "blue": (24, 90, 169),
    "green": (12, 122, 77),
    "yellow": (250, 200, 24),
    "purple": (112, 62, 152),
    "white": (244, 244, 240),
}
SHAPES = ("circle", "square", "triangle", "diamond")
CHARACTERS = "abcdefghjklmnpqrstuvwxyz0123456789"  # without i and o, which look like digits
SYMBOLS = {
    "&": "ampersand",
    "%": "percent",
    "#": "hash",
    "@": "at",
    "?": "question mark",
    "!": "exclamation mark",
    "+": "plus",
    "=": "equals",
    "*": "star",
    "$": "dollar",
    "±": "plus minus",
    "©": "copyright",
    "<": "less",
    "~": "tilde",
}
SMALL = "abdeghnqrt"  # letters whose small form is another shape
EVEN_CHARACTERS = (*CHARACTERS, *SYMBOLS, *(f"small {letter}" for letter in SMALL))
WRONG_SHARE, NEAR_DUPLICATE_SHARE = 0.05, 0.04


@dataclass(frozen=True)
class Plate:
    """What is drawn: shape, colour and character; `jitter` decides place, turn and background."""

    shape: str
    colour: str
    character: str
    jitter: int

    def caption(self) -> str:
        if self.character in SYMBOLS:
            what = f"symbol {SYMBOLS[self.character]}"
        elif self.character.startswith("small "):
            what = f"small letter {self.character[-1]}"
        else:
            what = f"{'number' if self.character.isdigit() else 'letter'} {self.character}"
        return f"a {self.colour} {self.shape} sign with the {what}"

    def glyph(self) -> str:
        return self.character[-1] if self.character.startswith("small ") else self.character.upper()


def write_demo_dataset(
    directory: Path,
    *,
    n: int = 2000,
    seed: int = 0,
    even: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw n pairs as an imagefolder; a finished one is left as it is. The same n, seed and variant give the same bytes."""
    if (directory / "metadata.jsonl").is_file():
        return directory
    beside = directory.with_name(f"{directory.name}.drawing")
    shutil.rmtree(beside, ignore_errors=True)
    (beside / "images").mkdir(parents=True)
    rng = np.random.default_rng(seed)
    lines = []
    for i, (plate, truth) in enumerate(_plates(n, rng, even)):
        name = f"images/{i:05d}.png"
        draw_plate(plate).save(beside / name)
        lines.append(json.dumps({"file_name": name, **truth}, ensure_ascii=False))
        if progress is not None:
            progress(i + 1, n)
    (beside / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    beside.rename(directory)
    return directory


def _plates(n: int, rng: np.random.Generator, even: bool) -> list[tuple[Plate, dict[str, str]]]:
    characters = EVEN_CHARACTERS if even else tuple(CHARACTERS)
    law = np.ones(len(characters)) if even else 1 / np.arange(1, len(characters) + 1)
    order = rng.permutation(characters)

    def drawn() -> Plate:
        return Plate(
            shape=str(rng.choice(SHAPES)),
            colour=str(rng.choice(list(COLOURS))),
            character=str(rng.choice(order, p=law / law.sum())),
            jitter=int(rng.integers(2**31)),
        )

    plates = [drawn() for _ in range(n)]
    roles = rng.permutation(n)
    wrong = set(roles[: round(WRONG_SHARE * n)].tolist())
    copies = set(roles[len(wrong) : len(wrong) + round(NEAR_DUPLICATE_SHARE * n)].tolist())
    originals = [i for i in range(n) if i not in wrong and i not in copies]
    rows = []
    for i, plate in enumerate(plates):
        text, label, planted, of = plate.caption(), plate.character, "", ""
        if i in wrong:
            other = drawn()
            while other.character == plate.character:
                other = drawn()
            text, label, planted = other.caption(), other.character, "wrong caption"
        elif i in copies:
            original = int(rng.choice(originals))
            originals.remove(original)  # one copy each, so that no two copies are the same picture
            plate = replace(plates[original], jitter=plates[original].jitter ^ 1)
            text, label, planted, of = (
                plate.caption(),
                plate.character,
                "near-duplicate",
                f"images/{original:05d}.png",
            )
        truth = {
            "text": text,
            "true_text": plate.caption(),
            "label": label,
            "true_label": plate.character,
            "planted": planted,
            "near_duplicate_of": of,
            "character": plate.character,
            "shape": plate.shape,
            "colour": plate.colour,
        }
        rows.append((plate, truth))
    return rows


def draw_plate(plate: Plate) -> Image.Image:
    """One sign, RGB of SIDE pixels. Near-duplicates share all of the jitter but its last bit: a small shift."""
    rng = np.random.default_rng(plate.jitter >> 1)
    nudge = (plate.jitter & 1) * 0.02
    big = SIDE * OVER
    picture = _background(rng, big)
    centre = big * (0.5 + nudge + rng.uniform(-0.03, 0.03)), big * (0.5 - nudge + rng.uniform(-0.03, 0.03))
    radius, turn = big * rng.uniform(0.40, 0.45), math.radians(rng.uniform(-7, 7))
    mask = Image.new("L", (big, big))
    _shape(ImageDraw.Draw(mask), plate.shape, centre, radius, turn, 255)
    shadow = mask.filter(ImageFilter.GaussianBlur(big * 0.02)).point([value // 2 for value in range(256)])
    picture.paste((30, 30, 36), (round(big * 0.015), round(big * 0.02)), shadow)
    face = COLOURS[plate.colour]
    light = plate.colour in ("yellow", "white")
    ink = (28, 28, 32) if light else (252, 252, 250)
    draw = ImageDraw.Draw(picture)
    _shape(draw, plate.shape, centre, radius, turn, face)
    _shape(draw, plate.shape, centre, radius * 0.92, turn, ink)
    _shape(draw, plate.shape, centre, radius * 0.86, turn, face)
    size = radius * (0.95 if plate.shape == "triangle" else 1.25)
    font = ImageFont.load_default(round(size))
    lower = radius * (0.22 if plate.shape == "triangle" else 0)
    stroke = round(big * 0.012)
    place = (centre[0], centre[1] + lower)
    draw.text(place, plate.glyph(), fill=ink, font=font, anchor="mm", stroke_width=stroke, stroke_fill=ink)
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _background(rng: np.random.Generator, big: int) -> Image.Image:
    """A soft gradient of two muted tones, dark to light from above or below."""
    base = rng.uniform(120, 205, size=3) * 0.5 + rng.uniform(120, 205) * 0.5
    ends = np.clip(np.stack([base - rng.uniform(10, 35), base + rng.uniform(10, 35)]), 0, 255)
    if rng.random() < 0.5:
        ends = ends[::-1]
    column = np.linspace(ends[0], ends[1], 32).astype(np.uint8)[:, None, :]
    return Image.fromarray(np.repeat(column, 2, axis=1)).resize((big, big), Image.Resampling.BICUBIC)


def _shape(draw, shape: str, centre: tuple[float, float], radius: float, turn: float, fill) -> None:
    x, y = centre
    if shape == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
        return
    corners, first, factor = {"square": (4, 45, 1.2), "triangle": (3, -90, 1.22), "diamond": (4, 0, 1.12)}[shape]
    if shape == "triangle":
        y += radius * 0.18
    angles = [math.radians(first + 360 / corners * i) + turn for i in range(corners)]
    draw.polygon([(x + radius * factor * math.cos(a), y + radius * factor * math.sin(a)) for a in angles], fill=fill)

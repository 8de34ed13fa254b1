"""A small world for each task: data, how to train on it, and what to ask. A new task joins the list and is held to all."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from traklens.engine.data.demo import write_demo_dataset

OWN_TASK = '''
import numpy as np
import torch
from torch import nn

import traklens


class Line(traklens.Task):
    """Regression: y is nearly linear in x; f is minus the squared error."""

    name = "line"
    fields = (traklens.Field("x", "tensor"), traklens.Field("y", "number"))

    def build_model(self, spec, *, seed=0):
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def batch(self, examples):
        x = torch.tensor(np.stack([example["x"] for example in examples]))
        return {"x": x, "y": torch.tensor([example["y"] for example in examples], dtype=torch.float32)}

    def model_output(self, model, batch, context):
        return -((model(batch["x"])[:, 0] - batch["y"]) ** 2)

    def output_to_loss(self, model, batch, context):
        return torch.ones(len(batch["y"]))

    def loss(self, model, batch, weights=None):
        errors = -self.model_output(model, batch, {})
        return errors.mean() if weights is None else (weights * errors).sum() / weights.sum()
'''


@dataclass(frozen=True)
class World:
    """task: its name or FILE:CLASS in the folder; data: writes a data set there and returns it."""

    task: str
    data: Callable[[Path], Path]
    hunts: bool

    def named(self, folder: Path) -> str:
        return f"{folder / 'own.py'}:Line" if ":" in self.task else self.task


def _pairs(folder: Path) -> Path:
    return write_demo_dataset(folder / "data", n=60, seed=3)


def _labelled(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(60):
        colour = i % 3
        place = folder / "data" / ("val" if i >= 45 else "train") / ("blue_jay", "green frog", "red fox")[colour]
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 90, (32, 32, 3))
        pixels[..., (2, 1, 0)[colour]] += 120
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.png")
    return folder / "data"


def _table(folder: Path) -> Path:
    (folder / "own.py").write_text(OWN_TASK)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 4)).astype(np.float32)
    y = (x @ np.array([1.0, -2.0, 0.5, 0.0]) + 0.1 * rng.standard_normal(60)).astype(np.float32)
    columns: dict[str, Any] = {"x": x, "y": y, "split": np.array(["train"] * 48 + ["test"] * 12)}
    np.savez(folder / "data.npz", **columns)
    return folder / "data.npz"


FIRST, SECOND = ("slow", "dull", "grim", "flat"), ("bright", "warm", "funny", "sharp")


def _reviews(folder: Path) -> Path:
    """Texts of different lengths, with words that belong to a label."""
    rng = np.random.default_rng(0)
    lines = ["text\tlabel"]
    for i in range(60):
        own = (FIRST, SECOND)[i % 2]
        words = [str(rng.choice(own if rng.random() < 0.6 else FIRST + SECOND)) for _ in range(2 + i % 7)]
        lines.append(f"the film was {' and '.join(words)} .\t{('bad', 'good')[i % 2]}")
    (folder / "data").mkdir()
    (folder / "data" / "train.tsv").write_text("\n".join(lines[:49]) + "\n")
    (folder / "data" / "heldout.tsv").write_text("\n".join([lines[0], *lines[49:]]) + "\n")
    return folder / "data"


def _questions(folder: Path) -> Path:
    cities = ("Aber", "Brun", "Cleve", "Dorn", "Eick", "Fels", "Gond", "Hard", "Ilse", "Jork", "Kell", "Lind")
    rows = [
        {
            "input": f"{'Where' if n else 'In which town'} does {name} number {n} live?",
            "target": f"in {cities[(i + n) % 12]}",
        }
        for i, name in enumerate(("Ada", "Bo", "Cy", "Di", "Eve", "Finn", "Gus", "Hal", "Ida", "Jo", "Kim", "Lea"))
        for n in range(5)
    ]
    file = folder / "data.jsonl"
    file.write_text(
        "".join(json.dumps({**row, "split": "test" if i % 5 == 4 else "train"}) + "\n" for i, row in enumerate(rows))
    )
    return file


def _sentences(folder: Path) -> Path:
    asked = [json.loads(line) for line in _questions(folder).read_text().splitlines()]
    file = folder / "data.jsonl"
    rows = [{"text": f"{row['input']} He lives {row['target']}.", "split": row["split"]} for row in asked]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


WORLDS = {
    "clip": World("clip", _pairs, True),
    "image_classifier": World("image_classifier", _labelled, True),
    "own": World("own.py:Line", _table, False),
    "text_classifier": World("text_classifier", _reviews, True),
    "seq2seq": World("seq2seq", _questions, True),
    "causal_lm": World("causal_lm", _sentences, False),
}

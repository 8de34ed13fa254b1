"""What a build would take, and which way to per-sample gradients is the fastest here: measured on a few pairs."""

import time

import numpy as np
import torch
from torch import nn

from traklens.engine.build.source import PairLoader, Source
from traklens.engine.features.featurize import Featurizer, References
from traklens.engine.gradients import Choice, choose_strategy
from traklens.engine.models.checkpoints import attributed_parameters, load_checkpoint, temperature
from traklens.engine.models.preprocessing import normalise
from traklens.engine.tasks.clip import ClipMargin
from traklens.stores.specs import ModelOutputSpec, ProjectionSpec

PROBE_PAIRS = 16


def probe(
    source: Source,
    loader: PairLoader,
    clip: nn.Module,
    output: ModelOutputSpec,
    device: str = "cpu",
    modules: str = "",
) -> Choice:
    """Measure the ways to per-sample gradients on a few pairs of this data set and model."""
    pixels, tokens = loader.load(0, min(PROBE_PAIRS, source.n))
    margin = ClipMargin(clip, temperature(clip, output.temperature)).eval().to(device)
    images, tokens = normalise(source.model, pixels).to(device), tokens.to(device)
    with torch.no_grad():
        u = clip.encode_image(images, normalize=True)  # type: ignore[operator]
        v = clip.encode_text(tokens, normalize=True)  # type: ignore[operator]
    keep = ~torch.eye(len(tokens), dtype=torch.bool, device=device)
    names = [f"clip.{name}" for name in attributed_parameters(clip, modules)]
    return choose_strategy(margin, (images, tokens, keep), names, (u, v), examples=PROBE_PAIRS)


def estimate(
    source: Source, output: ModelOutputSpec, projection: ProjectionSpec, *, batch_size: int, device: str = "cpu"
) -> dict[str, str]:
    """What a build would take, measured on a few pairs: path, time, disk and memory. Nothing is written."""
    loader = PairLoader(source)
    clip = load_checkpoint(source.model, source.checkpoints[0])
    choice = probe(source, loader, clip, output, device, projection.modules)
    featurizer = Featurizer(clip, source.model, output, projection, 0, strategy=choice.strategy, device=device)
    count = min(PROBE_PAIRS, source.n)
    pixels, tokens = loader.load(0, count)
    references = References(*(torch.from_numpy(e) for e in featurizer.embed(pixels, tokens)))
    keep = ~np.eye(count, dtype=bool)
    seconds = []
    for _ in range(2):  # the first call compiles the projection
        start = time.perf_counter()
        featurizer.project(pixels, tokens, keep, references, [])
        seconds.append((time.perf_counter() - start) / count)
    m, k, embedding = len(source.checkpoints), projection.dim, references.image.shape[1]
    numbers = 4 * m * (source.n * (k + 2 * embedding) + source.n_train * k)
    indices = 2 * m * source.n_train * (k + 2 * embedding)
    sizes = {name: parameter.numel() for name, parameter in clip.named_parameters()}
    p = sum(sizes[name] for name in attributed_parameters(clip, projection.modules))
    return {
        "pairs": f"{source.n_train:,} training, {source.n - source.n_train:,} held-out",
        "checkpoints": f"{m} of {sum(sizes.values()):,} parameters",
        "gradients": f"{choice.strategy} ({', '.join(f'{s} {t * 1e3:.1f} ms' for s, t in choice.seconds.items())} per pair)",
        "projection": f"{projection.kind}, {p:,} to {k:,}, on {device}",
        "time": f"about {seconds[-1] * source.n * m / 60:.1f} minutes ({seconds[-1] * 1e3:.1f} ms per pair and checkpoint)",
        "disk": f"about {(numbers + indices) / 1e9:.2f} GB",
        "memory": f"about {(3 * 8 * k * k + 4 * batch_size * k + 8 * p) / 1e9 + 1:.1f} GB, whatever the number of pairs",
    }

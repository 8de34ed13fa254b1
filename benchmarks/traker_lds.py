"""LDS side by side with MadryLab's traker on one image classifier: same checkpoints, same retrained models, same M and k.

    python benchmarks/traker_lds.py CIFAR10N [--pairs 2000] [--subsets 32] [--repeats 2] [--checkpoints 10] [--dim 1024]

A small convolutional network on the clean labels; its model output is the log odds of the label (`class_margin`, traker's
`image_classification`). traker is run with its own defaults but float32 (its half precision needs a GPU): no damping, no
threshold. `pip install traker==0.3.2 --no-deps` puts it at hand.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from machine import machine
from torch import Tensor, nn
from trak import TRAKer  # type: ignore[reportMissingImports]  # not a dependency: see above

from traklens.engine.data import load_dataset, open_image
from traklens.engine.evaluation.lds import lds, thresholded_lds
from traklens.engine.features.precondition import DampedGram, gram_matrix
from traklens.engine.gradients import per_sample_gradients
from traklens.engine.projection import make_projector
from traklens.engine.statistics import bootstrap
from traklens.engine.tasks.image_classifier import class_margin
from traklens.stores.specs import ProjectionSpec

DAMPING, DAMPINGS = 1.0, (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
EPOCHS, BATCH = 20, 64


class ClassMargin(torch.nn.Module):
    """images [B, …], labels [B] → log odds of the labelled class [B]."""

    def __init__(self, classifier: torch.nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return class_margin(self.classifier(images), labels)


def classifier(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for before, after in ((3, 24), (24, 48), (48, 96)):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(96 * 16, 10))


def fit(images: Tensor, labels: Tensor, members: np.ndarray, seed: int) -> nn.Module:
    """Train on some of the images; everything random comes from the seed."""
    model = classifier(seed)
    steps = EPOCHS * (len(members) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    rng = np.random.default_rng([seed, 1])
    for _ in range(EPOCHS):
        order = rng.permutation(members)
        for place in range(len(members) // BATCH):
            index = torch.from_numpy(order[place * BATCH : (place + 1) * BATCH])
            batch = images[index]
            if rng.random() < 0.5:
                batch = batch.flip(3)
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(model(batch), labels[index]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def outputs(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return class_margin(model(images), labels)


def features(model: nn.Module, images: Tensor, labels: Tensor, dim: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """φ [n, k] and Q [n] under one checkpoint, by the engine's own path."""
    margin = ClassMargin(model).eval()
    layout = tuple((name, parameter.numel()) for name, parameter in margin.named_parameters())
    projector = make_projector(ProjectionSpec(dim=dim), layout, m)
    phi = np.zeros((len(images), dim), dtype=np.float32)
    f = np.empty(len(images), dtype=np.float32)
    for start in range(0, len(images), BATCH):
        part = slice(start, min(start + BATCH, len(images)))
        block = phi[part]

        def sink(name: str, gradients: Tensor, rows: slice, block: np.ndarray = block) -> None:
            projector.accumulate(name, gradients, block[rows])

        names = [name for name, _ in layout]
        found = per_sample_gradients(margin, (images[part], labels[part]), sink, strategy="hooks", names=names)
        f[part] = found.numpy()
    return phi, 1 / (1 + np.exp(f))


@dataclass(frozen=True)
class Features:
    """One checkpoint: φ of the training pictures [n, k] and of the targets [T, k], Q [n]."""

    train: np.ndarray
    targets: np.ndarray
    q: np.ndarray

    def kernel(self, damping: float) -> np.ndarray:
        """φ_zᵀG⁻¹φ_i: [T, n]."""
        damped = DampedGram(gram_matrix([self.train], self.train.shape[1]), damping)
        return self.targets @ damped.solve(self.train).T


def ours(models, train, targets, dim: int) -> tuple[list[Features], list[np.ndarray], float]:
    """The features and the kernel at the default damping of every checkpoint, and the seconds all took."""
    start, found = time.perf_counter(), []
    for m, model in enumerate(models):
        phi, q = features(model, train[0], train[1], dim, m)
        of_targets, _ = features(model, targets[0], targets[1], dim, m)
        found.append(Features(phi, of_targets, q))
    kernels = [one.kernel(DAMPING) for one in found]
    return found, kernels, time.perf_counter() - start


def theirs(models, train, targets, dim: int) -> tuple[np.ndarray, float]:
    """traker's scores [T, n] over the given checkpoints, and seconds."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        tracker = TRAKer(
            model=models[0], task="image_classification", train_set_size=len(train[0]), device="cpu", save_dir=folder,
            proj_dim=dim, use_half_precision=False, logging_level=40,
        )  # fmt: skip
        for number, model in enumerate(models):
            tracker.load_checkpoint(model.state_dict(), model_id=number)
            for images, labels in zip(train[0].split(BATCH), train[1].split(BATCH), strict=True):
                tracker.featurize(batch=(images, labels), num_samples=len(images))
        tracker.finalize_features()
        for number, model in enumerate(models):
            tracker.start_scoring_checkpoint("x", model.state_dict(), model_id=number, num_targets=len(targets[0]))
            for images, labels in zip(targets[0].split(BATCH), targets[1].split(BATCH), strict=True):
                tracker.score(batch=(images, labels), num_samples=len(images))
        scores = np.array(tracker.finalize_scores(exp_name="x")).T.astype(np.float32)
    return scores, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    for name, value in (
        ("pairs", 2000),
        ("targets", 300),
        ("subsets", 32),
        ("repeats", 2),
        ("checkpoints", 10),
        ("dim", 1024),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    wanted = parser.parse_args()
    dataset = load_dataset(wanted.data, caption_template="{clean_label}")
    names = sorted({example.fields["caption"] for example in dataset.examples})
    rng = np.random.default_rng(0)

    def part(split: str, count: int) -> tuple[Tensor, Tensor]:
        own = [example for example in dataset.examples if example.split == split]
        own = [own[i] for i in rng.permutation(len(own))[:count]]
        pixels = np.stack([np.asarray(open_image(dataset.root / example.fields["image"])) for example in own])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        return images.contiguous(), torch.tensor([names.index(example.fields["caption"]) for example in own])

    train, targets = part("train", wanted.pairs), part("heldout", wanted.targets)
    n = len(train[0])
    halves = np.stack([np.random.default_rng([3, j]).permutation(n) < n // 2 for j in range(wanted.subsets)])
    start, measured = time.perf_counter(), []
    for j, half in enumerate(halves):
        members = np.flatnonzero(half)
        measured.append(
            np.mean(
                [outputs(fit(*train, members, 1000 + j + 500 * r), *targets).numpy() for r in range(wanted.repeats)],
                axis=0,
            )
        )
    f = np.stack(measured)
    models = [
        fit(*train, np.flatnonzero(np.random.default_rng([1, m]).permutation(n) < n // 2), m)
        for m in range(wanted.checkpoints)
    ]
    accuracy = float((models[0](targets[0]).argmax(1) == targets[1]).float().mean())
    p = sum(parameter.numel() for parameter in models[0].parameters())
    print(machine())
    print(
        f"{n} training pictures, {len(targets[0])} targets, p = {p:,}, k = {wanted.dim}, {wanted.subsets} halves with "
        f"{wanted.repeats} models each, accuracy {accuracy:.2f}; trained in {time.perf_counter() - start:.0f} s\n"
    )
    found, kernels, seconds = ours(models, train, targets, wanted.dim)
    weights = [one.q for one in found]
    print("| M | traker | ours, without threshold | ours | 95 % | ratio | traker's seconds | ours |\n|" + "---|" * 8)
    for m in (x for x in (1, 2, 4, 10) if x <= wanted.checkpoints):
        scores, their_seconds = theirs(models[:m], train, targets, wanted.dim)
        own = np.mean(kernels[:m], axis=0) * np.mean(weights[:m], axis=0)
        values, _ = thresholded_lds(own, halves, f)
        best, peer = bootstrap(values), lds(scores, halves, f).mean()
        print(
            f"| {m} | {peer:.3f} | {lds(own, halves, f).mean():.3f} | {best.mean:.3f} | {best.lo:.3f} to {best.hi:.3f} | "
            f"{best.mean / peer:.2f} | {their_seconds:.1f} | {seconds * m / wanted.checkpoints:.1f} |",
            flush=True,
        )
    print(f"\nM = {len(found)} | LDS, without threshold | without Q | with both\n|---|---|---|---|")
    for damping in DAMPINGS:
        kernel, q = np.mean([one.kernel(damping) for one in found], axis=0), np.mean(weights, axis=0)
        plain, bare = lds(kernel * q, halves, f).mean(), thresholded_lds(kernel, halves, f)[0].mean()
        print(
            f"| λ = {damping:g} | {plain:.3f} | {bare:.3f} | {thresholded_lds(kernel * q, halves, f)[0].mean():.3f} |"
        )


if __name__ == "__main__":
    main()

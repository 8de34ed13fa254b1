"""Per-sample gradients against an ordinary batched training step, on the same examples.

    python benchmarks/gradients.py [--json] [--model tiny|ViT-B-32] [--batch N] [--threads N] [--repeats N]

Random weights, random examples; the sink discards, so projection is not included. The machine may be shared:
all candidates take turns, and the ratio of medians is what counts. vmap is left out for ViT-B-32 unless
--vmap is given (minutes on a CPU).
"""

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import open_clip  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from open_clip.model import CLIP  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from traklens.engine.gradients import choose_strategy, per_sample_gradients  # noqa: E402
from traklens.engine.projection import make_projector  # noqa: E402
from traklens.stores.specs import ProjectionSpec  # noqa: E402

REFERENCES = 64
TARGET = 1.5


class ModelOutput(nn.Module):
    """f(z) of DESIGN section 3 against fixed reference embeddings."""

    def __init__(self, clip: CLIP) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, images: Tensor, tokens: Tensor, ref_u: Tensor, ref_v: Tensor) -> Tensor:
        u, v = self.clip.encode_image(images, normalize=True), self.clip.encode_text(tokens, normalize=True)
        scale, own = self.clip.logit_scale.exp(), (u * v).sum(1, keepdim=True)
        to_text = (scale * (u @ ref_v.T - own)).logsumexp(1)
        return -to_text - (scale * (v @ ref_u.T - own)).logsumexp(1)


def build(name: str, batch: int, device: torch.device) -> tuple[ModelOutput, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The module with random weights, a batch of random inputs, and the shared reference embeddings."""
    torch.manual_seed(0)
    if name == "tiny":
        config = json.loads((ROOT / "engine/models/configs/tiny.json").read_text())
    else:
        config = open_clip.get_model_config(name) or {}
    clip = CLIP(**{key: config[key] for key in ("embed_dim", "vision_cfg", "text_cfg")})
    size, text = config["vision_cfg"]["image_size"], config["text_cfg"]
    inputs = (
        torch.randn(batch, 3, size, size),
        torch.randint(1, text["vocab_size"], (batch, text["context_length"])),
    )
    shared = tuple(F.normalize(torch.randn(REFERENCES, config["embed_dim"]), dim=-1) for _ in range(2))
    move = lambda tensors: tuple(x.to(device) for x in tensors)  # noqa: E731
    return ModelOutput(clip).eval().to(device), move(inputs), move(shared)


def timed(work: Callable[[], Any], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure(
    name: str, batch: int, repeats: int, with_vmap: bool, device: torch.device, dim: int = 0
) -> dict[str, Any]:
    """Median milliseconds per example of each candidate, taken in turns, and the ratio to the training step.

    With `dim`, also hooks whose gradients are projected to that many numbers (`sjlt`), as a build does it.
    """
    module, inputs, shared = build(name, batch, device)
    names = [n for n, _ in module.named_parameters() if n != "clip.logit_scale"]

    def training_step() -> None:
        # the symmetric contrastive loss over the batch, forward and backward, without an optimizer
        u = module.clip.encode_image(inputs[0], normalize=True)
        v = module.clip.encode_text(inputs[1], normalize=True)
        logits, labels = module.clip.logit_scale.exp() * u @ v.T, torch.arange(batch, device=device)
        ((F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2).backward()
        module.zero_grad(set_to_none=True)

    def by(strategy: str) -> Callable[[], Any]:
        return lambda: per_sample_gradients(
            module, inputs, lambda name, g, rows: None, strategy=strategy, names=names, shared=shared
        )

    candidates = {"training step": training_step, "hooks": by("hooks"), "single": by("single")}
    if with_vmap:
        candidates["vmap"] = by("vmap")
    if dim:
        sizes = {n: p.numel() for n, p in module.named_parameters()}
        layout = tuple((n, sizes[n]) for n in names)
        projector = make_projector(ProjectionSpec(dim=dim), layout, 0, device=device.type)
        sums = torch.zeros(batch, dim, device=device)
        phi = sums.numpy() if device.type == "cpu" else sums

        def sink(name: str, gradients: Tensor, rows: slice) -> None:
            projector.accumulate(name, gradients, phi[rows])

        candidates["hooks and projection"] = lambda: per_sample_gradients(
            module, inputs, sink, strategy="hooks", names=names, shared=shared
        )
    times: dict[str, list[float]] = {key: [] for key in candidates}
    for turn in range(repeats + 1):
        for key, work in candidates.items():
            seconds = timed(work, device)
            if turn:  # the first is the warm-up
                times[key].append(seconds)
    medians = {key: statistics.median(values) * 1e3 / batch for key, values in times.items()}
    start = time.perf_counter()
    choice = choose_strategy(module, inputs, names, shared)
    return {
        "model": name,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "batch": batch,
        "parameters": sum(p.numel() for p in module.parameters()),
        "ms_per_example": medians,
        "ratio_to_training_step": {key: value / medians["training step"] for key, value in medians.items()},
        "chosen": choice.strategy,
        "seconds_to_choose": time.perf_counter() - start,
        "target_met": medians[choice.strategy] <= TARGET * medians["training step"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Per-sample gradients against an ordinary training step.")
    parser.add_argument("--model", choices=("tiny", "ViT-B-32"), action="append")
    parser.add_argument("--batch", type=int, help="default: 32 for tiny, 8 for ViT-B-32")
    parser.add_argument("--repeats", type=int, help="default: 11 for tiny, 3 for ViT-B-32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--vmap", action="store_true", help="measure vmap on ViT-B-32 too")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", message=".*batching rule.*")
    results = []
    for name in options.model or ("tiny", "ViT-B-32"):
        small = name == "tiny"
        results.append(
            measure(
                name,
                options.batch or (32 if small else 8),
                options.repeats or (11 if small else 3),
                small or options.vmap,
                torch.device(options.device),
            )
        )
        if not options.json:
            show(results[-1])
    if options.json:
        print(json.dumps(results, indent=2))


def show(result: dict[str, Any]) -> None:
    print(
        f"{result['model']}: {result['parameters'] / 1e6:.1f} M parameters, batch {result['batch']}, "
        f"{result['threads']} thread(s), {result['device']}"
    )
    for key, value in result["ms_per_example"].items():
        print(f"  {key:14} {value:9.2f} ms per example   {result['ratio_to_training_step'][key]:6.2f} x")
    met = "met" if result["target_met"] else "missed"
    print(f"  chosen: {result['chosen']} in {result['seconds_to_choose']:.1f} s; target {TARGET} x {met}")


if __name__ == "__main__":
    main()

"""How well inner products survive a projection: families and nonzeros against the exact products."""

from pathlib import Path

import numpy as np
import torch

from traklens.engine.features.precondition import DampedGram, gram_matrix
from traklens.engine.projection import make_projector
from traklens.stores.specs import ProjectionSpec

EXAMPLES, COORDINATES, SEEDS = 48, 100_000, 10
DAMPING = 0.1  # relative to the mean diagonal, the default of a store
NONZEROS = (1, 2, 4, 8, 16)


def quality(dim: int, store: Path | None) -> dict[str, list[dict[str, float | str]]]:
    """Per kind of gradients and projection: root mean square error of inner products, relative to rademacher's."""
    rng = np.random.default_rng(0)
    kinds = {
        "gaussian": rng.standard_normal((EXAMPLES, COORDINATES)).astype(np.float32),
        "heavy tails": rng.standard_t(2, size=(EXAMPLES, COORDINATES)).astype(np.float32),
    }
    tables = {name: compare({"g": values}, dim) for name, values in kinds.items()}
    if store is not None:
        tables["real"] = compare(real_gradients(store), dim, ranks=True)
    return tables


def compare(gradients: dict[str, np.ndarray], dim: int, *, ranks: bool = False) -> list[dict[str, float | str]]:
    """One line per projection. gradients: tensor name → [n, numel]; with `ranks`, also the order of preconditioned scores."""
    exact = np.sum([g.astype(np.float64) @ g.T.astype(np.float64) for g in gradients.values()], axis=0)
    specs = {"rademacher": ProjectionSpec(kind="rademacher", dim=dim)}
    specs |= {f"sjlt s={s}": ProjectionSpec(dim=dim, nonzeros=s) for s in NONZEROS}
    lines: list[dict[str, float | str]] = []
    for name, spec in specs.items():
        found = [_project(spec, gradients, seed) for seed in range(SEEDS)]
        line: dict[str, float | str] = {
            "projection": name,
            "error": float(np.mean([_error(x, exact) for x in found])),
        }
        line["vs_rademacher"] = line["error"] / float(lines[0]["error"]) if lines else 1.0  # type: ignore[operator]
        if ranks:
            pairs = [_agreement(x @ x.T, exact) for x in found]
            conditioned = [_agreement(_scores(x), _exact_scores(exact, dim)) for x in found]
            line["spearman"], line["top10"] = np.mean(pairs, axis=0).tolist()
            line["spearman_preconditioned"], line["top10_preconditioned"] = np.mean(conditioned, axis=0).tolist()
        lines.append(line)
    return lines


def _project(spec: ProjectionSpec, gradients: dict[str, np.ndarray], seed: int) -> np.ndarray:
    layout = tuple((name, values.shape[1]) for name, values in gradients.items())
    projector = make_projector(spec, layout, seed)
    out = np.zeros((len(next(iter(gradients.values()))), spec.dim), dtype=np.float32)
    for name, values in gradients.items():
        projector.accumulate(name, values, out)
    return out


def _error(projected: np.ndarray, exact: np.ndarray) -> float:
    """√mean of ((x·y) − exact)² / (|x|²|y|²) over distinct pairs, times √k: 1 for a perfect dense projection."""
    norms = np.sqrt(np.diag(exact))
    wrong = (projected.astype(np.float64) @ projected.T - exact) / np.outer(norms, norms)
    return float(np.sqrt(np.mean(wrong[np.triu_indices(len(exact), 1)] ** 2) * projected.shape[1]))


def _scores(projected: np.ndarray) -> np.ndarray:
    """TRAK's scores before Q: Φ(ΦᵀΦ + λI)⁻¹Φᵀ."""
    return projected @ DampedGram(gram_matrix([projected], projected.shape[1]), DAMPING).solve(projected).T


def _exact_scores(exact: np.ndarray, dim: int) -> np.ndarray:
    """The same without a projection, K(K + λI)⁻¹, with the λ that a Gram matrix of k dimensions would get."""
    ridge = DAMPING * np.trace(exact) / dim
    return exact @ np.linalg.inv(exact + ridge * np.eye(len(exact)))


def _agreement(found: np.ndarray, exact: np.ndarray, top: int = 10) -> tuple[float, float]:
    """Mean over rows of Spearman's correlation and of the overlap of the ten largest, each row without its diagonal."""
    spearman, overlap = [], []
    for i in range(len(exact)):
        a, b = np.delete(found[i], i), np.delete(exact[i], i)
        spearman.append(np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1])
        overlap.append(len({*np.argsort(-a)[:top]} & {*np.argsort(-b)[:top]}) / top)
    return float(np.mean(spearman)), float(np.mean(overlap))


def real_gradients(store: Path, count: int = 200) -> dict[str, np.ndarray]:
    """Exact per-sample gradients of the store's first checkpoint for `count` training pairs: tensor → [count, numel]."""
    from traklens.engine.attribution.new_target import LiveModels
    from traklens.engine.gradients import per_sample_gradients
    from traklens.engine.retraining.retrainer import open_source
    from traklens.engine.tasks.loading import Loader
    from traklens.stores.store import open_store

    opened = open_store(store)
    models = LiveModels(opened)
    featurizer, context = models.featurizers[0], models.contexts[0]
    batch = Loader(models.task, open_source(opened).rows).load(0, count)
    module = featurizer.output(batch, context)
    names = [f"model.{name}" for name in featurizer.parameters]
    sizes = {name: p.numel() for name, p in module.named_parameters()}
    found = {name: np.zeros((count, sizes[name]), dtype=np.float32) for name in names}

    def sink(name: str, gradients: torch.Tensor, rows: slice) -> None:
        found[name][rows] += gradients.numpy()

    inputs, shared = tuple(batch.values()), tuple(context.values())
    per_sample_gradients(module, inputs, sink, strategy="hooks", names=names, shared=shared)
    return found

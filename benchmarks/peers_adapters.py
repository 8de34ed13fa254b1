"""One peer on given checkpoints: `python peers_adapters.py PEER WORLD CHECKPOINTS OUT`, in the environment that has it.

WORLD is what peers.py wrote: pictures and labels of training set and targets (world.npz), a state dict per checkpoint. Writes
scores float32 [T, n] (larger: the training example raised the target's log odds) and the seconds they took.
"""

# pyright: reportMissingImports=false, reportCallIssue=false, reportArgumentType=false
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from traklens.engine.models.classifiers import ResNet9
from traklens.engine.tasks.classifier import class_margin

BATCH, DIM = 50, 1_024
Pictures = tuple[Tensor, Tensor]


def traker(models: list[nn.Module], files: list[Path], train: Pictures, targets: Pictures) -> np.ndarray:
    """traker's own recipe for image classification, on the CPU."""
    from trak import TRAKer

    with tempfile.TemporaryDirectory() as folder:
        tracker = TRAKer(
            model=models[0], task="image_classification", train_set_size=len(train[0]), device="cpu", save_dir=folder,
            proj_dim=DIM, use_half_precision=False, logging_level=40,
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
        return np.array(tracker.finalize_scores(exp_name="x")).T


def _dattri_task(models: list[nn.Module], *, of_margin: bool = False):
    """The task for dattri; its TRAK takes the margin for the loss, as its own examples do."""
    from dattri.task import AttributionTask

    model = models[0]

    def logits_of(params, data):
        images, labels = data
        images = images if images.ndim == 4 else images.unsqueeze(0)
        return torch.func.functional_call(model, params, images), labels.reshape(-1)

    def loss(params, data):
        return F.cross_entropy(*logits_of(params, data))

    def margin(params, data):
        logits, labels = logits_of(params, data)
        own = labels[:, None] == torch.arange(logits.shape[1])  # one_hot does not go through vmap
        others = torch.logsumexp(logits.masked_fill(own, float("-inf")), dim=1)
        return (logits.masked_fill(~own, 0).sum(dim=1) - others).sum()

    states = [{name: value.clone() for name, value in one.state_dict().items()} for one in models]
    return AttributionTask(
        loss_func=margin if of_margin else loss, model=model, checkpoints=states, target_func=margin
    ), model


def _loaders(train: Pictures, targets: Pictures) -> tuple[DataLoader, DataLoader]:
    return DataLoader(TensorDataset(*train), batch_size=BATCH), DataLoader(TensorDataset(*targets), batch_size=BATCH)


def dattri_trak(models: list[nn.Module], files: list[Path], train: Pictures, targets: Pictures) -> np.ndarray:
    from dattri.algorithm.trak import TRAKAttributor

    task, model = _dattri_task(models, of_margin=True)

    def probability(params, data):
        images, labels = data
        logits = torch.func.functional_call(model, params, images.unsqueeze(0))
        return torch.exp(-F.cross_entropy(logits, labels.unsqueeze(0)))

    kwargs = {"proj_dim": DIM, "proj_max_batch_size": 32, "proj_seed": 0, "device": "cpu"}
    attributor = TRAKAttributor(task, probability, projector_kwargs=kwargs, device="cpu")
    of_train, of_targets = _loaders(train, targets)
    attributor.cache(of_train)
    return attributor.attribute(of_targets).T.detach().numpy()


def dattri_tracin(models: list[nn.Module], files: list[Path], train: Pictures, targets: Pictures) -> np.ndarray:
    """Gradient dot product of margin and loss; the sign turned, since a loss falls where its example is learned."""
    from dattri.algorithm.tracin import TracInAttributor

    task, _ = _dattri_task(models)
    kwargs = {"proj_dim": DIM, "proj_max_batch_size": 32, "proj_seed": 0, "device": "cpu"}
    weights = torch.ones(len(models))
    attributor = TracInAttributor(task, weights, normalized_grad=False, projector_kwargs=kwargs, device="cpu")
    with torch.no_grad():
        return -attributor.attribute(*_loaders(train, targets)).T.detach().numpy()


def dattri_influence(models: list[nn.Module], files: list[Path], train: Pictures, targets: Pictures) -> np.ndarray:
    """dattri's DataInf, which inverts layer by layer; the sign turned as above."""
    from dattri.algorithm.influence_function import IFAttributorDataInf

    total = np.zeros((len(targets[0]), len(train[0])), dtype=np.float64)
    for model in models:
        task, _ = _dattri_task([model])
        attributor = IFAttributorDataInf(task, device="cpu", regularization=1e-2)
        of_train, of_targets = _loaders(train, targets)
        attributor.cache(of_train)
        total -= attributor.attribute(of_train, of_targets).T.detach().numpy()
    return total


def kronfluence(models: list[nn.Module], files: list[Path], train: Pictures, targets: Pictures) -> np.ndarray:
    """EK-FAC, its default damping, averaged over the checkpoints."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments
    from kronfluence.task import Task

    class Classification(Task):
        def compute_train_loss(self, batch, model, sample=False):
            images, labels = batch
            logits = model(images)
            if sample:
                with torch.no_grad():
                    labels = torch.multinomial(torch.softmax(logits.detach(), dim=1), 1).flatten()
            return F.cross_entropy(logits, labels, reduction="sum")

        def compute_measurement(self, batch, model):
            images, labels = batch
            return -class_margin(model(images), labels).sum()

    total = np.zeros((len(targets[0]), len(train[0])), dtype=np.float64)
    for model in models:
        with tempfile.TemporaryDirectory() as folder:
            task = Classification()
            prepared = prepare_model(model, task)
            analyzer = Analyzer("x", prepared, task, cpu=True, output_dir=folder, disable_tqdm=True)
            of_train, of_targets = TensorDataset(*train), TensorDataset(*targets)
            analyzer.fit_all_factors("f", of_train, per_device_batch_size=BATCH, factor_args=FactorArguments("ekfac"))
            analyzer.compute_pairwise_scores(
                "s", "f", of_targets, of_train, per_device_query_batch_size=BATCH, per_device_train_batch_size=BATCH
            )
            total += analyzer.load_pairwise_scores("s")["all_modules"].numpy()
    return total / len(models)


def captum_tracin(models: list[nn.Module], files: list[Path], train: Pictures, targets: Pictures) -> np.ndarray:
    """TracInCPFast: the last layer's gradients."""
    from captum.influence import TracInCPFast

    def load(model: nn.Module, file: str) -> float:
        model.load_state_dict(torch.load(file, weights_only=True))
        model.eval()
        return 1.0

    model = models[0]
    traced = TracInCPFast(
        model, model.head, TensorDataset(*train), [str(file) for file in files], checkpoints_load_func=load,
        loss_fn=nn.CrossEntropyLoss(reduction="sum"), batch_size=BATCH,
    )  # fmt: skip
    return traced.influence(targets).detach().numpy()


PEERS: dict[str, Callable[[list[nn.Module], list[Path], Pictures, Pictures], np.ndarray]] = {
    "traker": traker,
    "dattri TRAK": dattri_trak,
    "dattri TracIn": dattri_tracin,
    "dattri DataInf": dattri_influence,
    "kronfluence EK-FAC": kronfluence,
    "captum TracInCPFast": captum_tracin,
}


def main(peer: str, world: Path, checkpoints: int, out: Path) -> None:
    with np.load(world / "world.npz") as found:
        train = torch.from_numpy(found["train_pixels"]), torch.from_numpy(found["train_label"])
        targets = torch.from_numpy(found["target_pixels"]), torch.from_numpy(found["target_label"])
    files = [world / f"checkpoint_{m}.pt" for m in range(checkpoints)]
    models = []
    for file in files:
        model = ResNet9(int(train[1].max()) + 1)
        model.load_state_dict(torch.load(file, weights_only=True))
        models.append(model.eval())
    start = time.perf_counter()
    scores = PEERS[peer](models, files, train, targets)
    np.savez(out, scores=scores.astype(np.float32), seconds=time.perf_counter() - start)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))

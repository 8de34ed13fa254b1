"""Token by token: which words of a training text make up its score. Imports torch.

A score is linear in the training example's gradient. With w_m = G_m⁻¹ φ_m(z) and the direction W_m = P_m w_m of the
parameters (TRAK, Park et al. 2023, arXiv 2303.14186, section 3),

    τ(z, z_i) = Q̄_i/M Σ_m ∂f(z_i)/∂θ · W_m

so that where f is a mean over tokens t, each contributes the derivative of its own f_t along W_m: one forward pass with
derivatives, for all shown texts at once. The words of an input contribute through their embeddings: (∂f/∂e_l) · W_m at the
row of the table that word l reads. These are a part of the score; the rest goes through layers that all words share.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

from traklens.engine.attribution.methods import mean_q
from traklens.engine.attribution.new_target import LiveModels
from traklens.engine.attribution.scores import Target
from traklens.engine.attribution.shades import Shaded, words_of
from traklens.engine.features.featurize import PREFIX, Featurizer
from traklens.engine.features.precondition import DampedGram, gram_of
from traklens.engine.gradients import per_sample_gradients
from traklens.engine.projection import Spreads
from traklens.engine.tasks.contract import Batch
from traklens.engine.tasks.language import CausalTask, LanguageTask
from traklens.engine.tasks.text import TextTask
from traklens.stores.errors import UsageError


class Shader:
    """What it takes to look into scores: the damped Gram matrix of each checkpoint. Read only after construction."""

    def __init__(self, models: LiveModels) -> None:
        """Raises UsageError for a task that is not of text."""
        if not isinstance(models.task, TextTask):
            raise UsageError(
                f"task {models.task.name!r}", "no text", "a task of text", "Its scores have no words to look into."
            )
        self.models, self.task, store = models, models.task, models.store
        score = store.manifest.score
        self._grams = [
            DampedGram(gram_of(score.gram, store.array(m, "phi"), store.n_train), score.damping)
            for m in range(store.n_checkpoints)
        ]
        self._q = mean_q(store, store.n_checkpoints) if score.weight_by_q else np.ones(store.n_train)

    def shaded(self, target: Target, rows: Sequence[int]) -> dict[int, tuple[Shaded, ...]]:
        """Per training row what the words of each of its texts contribute to its score for a target.

        Raises UsageError for a row outside the training set.
        """
        store = self.models.store
        wrong = [row for row in rows if not 0 <= row < store.n_train]
        if wrong:
            raise UsageError("row", str(wrong[0]), f"a training row, 0 to {store.n_train - 1}", "Choose another.")
        if not len(rows):
            return {}
        examples = [store.examples.example(row) for row in rows]
        batch = self.task.batch([{**example.fields, "group": example.group} for example in examples])
        answered = said = None
        queries = np.split(target.influence_query, store.n_checkpoints)
        for m, (gram, query) in enumerate(zip(self._grams, queries, strict=True)):
            featurizer = self.models.featurizers[m]
            weights = gram.solve(query[None])[0]
            along = _directions(featurizer, weights)
            scale = torch.from_numpy(self._q[list(rows)] / store.n_checkpoints).float()
            if featurizer.unit:  # φ was divided by its length, which the store does not keep
                stored = torch.from_numpy(store.array(m, "phi").oindex[np.array(rows)] @ weights)
                scale = scale * stored / self._whole(featurizer, batch, along)
            if isinstance(self.task, LanguageTask):
                part = _of_answers(self.task, featurizer, batch, along) * scale[:, None]
                answered = part if answered is None else answered + part
            through = None if isinstance(self.task, CausalTask) else _of_inputs(featurizer, batch, along)
            if through is not None:
                said = through * scale[:, None] if said is None else said + through * scale[:, None]
        return {
            row: self._in_words(
                example.fields,
                None if answered is None else answered[place].numpy(),
                None if said is None else said[place].numpy(),
            )
            for place, (row, example) in enumerate(zip(rows, examples, strict=True))
        }

    def _whole(self, featurizer: Featurizer, batch: Batch, along: dict[str, Tensor]) -> Tensor:
        """∂f/∂θ · W of each example, [B]."""
        module = featurizer.output(batch, {})
        return _derivative(module, batch, along)

    def _in_words(
        self, fields: Mapping[str, Any], answered: np.ndarray | None, said: np.ndarray | None
    ) -> tuple[Shaded, ...]:
        """Contributions of the tokens of one example as those of its words."""
        found = []
        if answered is not None:
            title = self.task.title
            places = self.task.codec.encoded([str(fields[title])])[0].offsets
            found.append(Shaded(title, words_of(str(fields[title]), places, answered), whole=True))
        if said is not None:
            names = [
                field.name for field in self.task.fields if field.kind == "text" and field.name != self.task.title
            ]
            texts = tuple(str(fields[name]) for name in names)
            encoded = self.task.codec.encoded([texts if len(texts) > 1 else texts[0]])[0]  # type: ignore[list-item]
            for number, name in enumerate(names):
                own = [place for place, of in enumerate(encoded.sequence_ids) if of == number]
                places = [encoded.offsets[place] for place in own]
                found.append(Shaded(name, words_of(texts[number], places, said[own]), whole=False))
        return tuple(found)


def _directions(featurizer: Featurizer, weights: np.ndarray) -> dict[str, Tensor]:
    """W = P·w by parameter, in its shape; where gradients are scaled before they are projected, so is W."""
    projector = featurizer.projector
    assert isinstance(projector, Spreads)
    found, own = {}, dict(featurizer.model.named_parameters())
    for name in featurizer.parameters:
        direction = torch.from_numpy(projector.spread(name, weights))
        if featurizer.scale:
            direction = direction * featurizer.scale[name]
        found[name] = direction.view(own[name].shape)
    return found


def _derivative(module: nn.Module, batch: Batch, along: dict[str, Tensor]) -> Tensor:
    """The derivative of a module's output along directions of the parameters of its part `model`."""
    own = dict(module.named_parameters())
    with torch.no_grad(), forward_ad.dual_level():
        moved = {
            f"{PREFIX}{name}": forward_ad.make_dual(own[f"{PREFIX}{name}"].detach(), direction)
            for name, direction in along.items()
        }
        tangent = forward_ad.unpack_dual(functional_call(module, moved, tuple(batch.values()))).tangent
    assert tangent is not None
    return tangent


class _Tokens(nn.Module):
    """The outputs of the tokens of a batch, [B, T], each a part of f: f is their sum."""

    def __init__(self, task: LanguageTask, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.task, self.model, self.names = task, model, tuple(names)

    def forward(self, *tensors: Tensor) -> Tensor:
        each, _, asked = self.task.of_tokens(self.model, dict(zip(self.names, tensors, strict=True)))
        return each * asked / asked.sum(dim=1, keepdim=True).clamp_min(1)


def _of_answers(task: LanguageTask, featurizer: Featurizer, batch: Batch, along: dict[str, Tensor]) -> Tensor:
    """Contributions of the tokens asked about, at their places in the text [B, T]."""
    found = _derivative(_Tokens(task, featurizer.model, tuple(batch)).eval(), batch, along)
    return nn.functional.pad(found, (1, 0)) if isinstance(task, CausalTask) else found  # the first token is not asked


def _of_inputs(featurizer: Featurizer, batch: Batch, along: dict[str, Tensor]) -> Tensor | None:
    """Contributions of the tokens of the input through their embeddings, [B, L]; None where the table is not attributed."""
    table = featurizer.model.get_input_embeddings().weight  # type: ignore[operator]
    name = next((name for name, parameter in featurizer.model.named_parameters() if parameter is table), None)
    if name not in along:
        return None
    found = torch.zeros(batch["tokens"].shape)

    def rows_sink(_: str, values: Tensor, ids: Tensor, rows: slice) -> None:
        if ids.shape == batch["tokens"].shape and torch.equal(ids, batch["tokens"][rows]):
            found[rows] += (values * along[name][ids]).sum(dim=-1)

    per_sample_gradients(
        featurizer.output(batch, {}),
        tuple(batch.values()),
        lambda *_: None,
        strategy="hooks",
        names=[f"{PREFIX}{name}"],
        rows_sink=rows_sink,
    )
    return found

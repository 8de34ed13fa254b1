"""Only the chosen parameters are attributed, and the store says which; their features: tests/test_build.py."""

import numpy as np
import pytest
from torch import nn

from traklens.engine.attribution.new_target import LiveModels
from traklens.engine.build.source import Source
from traklens.engine.build.stages import build_store
from traklens.engine.explore.reproduce import commands
from traklens.engine.models.parameters import attributed_parameters
from traklens.stores.errors import UsageError
from traklens.stores.specs import ModelOutputSpec, ProjectionSpec, ScoreSpec
from traklens.stores.store import open_store


def test_a_pattern_takes_parameters_by_their_name_or_that_of_a_module_around_them():
    model = nn.ModuleDict({"visual": nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), "text": nn.Linear(2, 2)})
    every = [name for name, _ in model.named_parameters()]
    assert attributed_parameters(model) == every
    assert attributed_parameters(model, "visual") == attributed_parameters(model, "visual.*") == every[:4]
    assert attributed_parameters(model, "*.bias") == [name for name in every if name.endswith("bias")]
    assert attributed_parameters(model, "text, visual.1") == every[2:]
    with pytest.raises(UsageError, match=r"'vision'.*below visual, text"):
        attributed_parameters(model, "visual, vision")


def test_the_store_says_which_and_new_questions_use_the_same(tiny_demo, tmp_path):
    source = Source.open(tiny_demo / "data", run=tiny_demo / "run")
    output, score = ModelOutputSpec(n_reference=32), ScoreSpec()
    some = ProjectionSpec(dim=64, modules="visual.ln_post, text_projection")
    build_store(source, tmp_path / "some", output, some, score, batch_size=16)
    store = open_store(tmp_path / "some")
    assert store.manifest.projection.modules == some.modules
    assert "--modules" in commands(store)[-1]

    models, row = LiveModels(store), 5
    layout = models.featurizers[0].projector.layout
    assert {name for name, _ in layout} == {"visual.ln_post.weight", "visual.ln_post.bias", "text_projection"}
    live = models.target(store.image_path(row), store.examples.words[row])
    stored = np.concatenate([store.row(m, "phi", row) for m in range(2)])
    np.testing.assert_allclose(live.influence_query, stored, atol=1e-3 * np.abs(stored).max())
    with pytest.raises(UsageError, match="'nothing'"):
        build_store(source, tmp_path / "none", output, ProjectionSpec(dim=64, modules="nothing"), score)
    assert not (tmp_path / "none.building").exists()

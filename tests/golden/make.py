"""Write the golden store of the current schema: run once when SCHEMA is raised, `python tests/golden/make.py`."""

import json
import shutil
import tempfile
from pathlib import Path

from traklens.engine.attribution.scores import rank, stored_target
from traklens.engine.build.source import Source
from traklens.engine.build.stages import build_store
from traklens.engine.data import load_dataset
from traklens.engine.data.demo import write_demo_dataset
from traklens.engine.training.train import train
from traklens.stores.checksums import write_checksums
from traklens.stores.layout import SCHEMA
from traklens.stores.specs import ModelOutputSpec, ProjectionSpec, ScoreSpec
from traklens.stores.store import open_store

HERE = Path(__file__).parent

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    data = write_demo_dataset(folder / "data", n=24, seed=1)
    train(load_dataset(data), folder / "run", checkpoints=1, epochs=2, batch_size=8, heldout=0.25)
    source = Source.open(data, run=folder / "run")
    build_store(source, folder / "out/store", ModelOutputSpec(n_reference=8), ProjectionSpec(dim=16), ScoreSpec())
    # The manifest of a golden store names no folder of the machine that wrote it.
    manifest = folder / "out/store/manifest.json"
    manifest.write_text(manifest.read_text().replace(str(folder), "/golden"))
    write_checksums(folder / "out/store")
    store = open_store(folder / "out/store")
    target = stored_target(store, store.n - 1)
    found = rank(store, target, top=3)
    expected = {
        "id": target.id,
        "proponents": [{"id": pair.id} for pair in found.proponents],
        "opponents": [{"id": pair.id} for pair in found.opponents],
        "scores": [pair.score for pair in (*found.proponents, *found.opponents)],
        "first_caption": store.examples.words[0],
        "thumbnail_bytes": len(store.thumbnail(0)),
    }
    (HERE / f"store_v{SCHEMA}.json").write_text(json.dumps(expected, indent=1) + "\n")
    shutil.make_archive(str(HERE / f"store_v{SCHEMA}"), "zip", folder / "out")

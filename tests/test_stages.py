"""The table of build stages is true: it names what a store holds, in an order in which nothing is read before it is made."""

from traklens.engine.build.stages import EMBEDDED, KEPT, STAGES, planned
from traklens.stores.layout import CHECKSUMS, CONTEXT, FEATURES, MANIFEST, SEAL, SECOND_MOMENT
from traklens.stores.store import open_store


def test_the_stages_make_what_a_store_holds_and_each_thing_once(tiny_store):
    store = open_store(tiny_store)
    made = [name for stage in STAGES for name in stage.makes]
    assert len(set(made)) == len(made)
    arrays = {name for stage in STAGES if stage.per_checkpoint for name in stage.makes} - {EMBEDDED, KEPT}
    arrays -= {SECOND_MOMENT}  # made where gradients are scaled by it
    arrays |= {*store.task.embeddings, "p", *(f"{CONTEXT}{name}" for name in store.manifest.context)}
    folders = [path for path in (tiny_store / FEATURES).iterdir() if path.is_dir()]
    assert len(folders) == store.n_checkpoints
    for folder in folders:
        assert {path.name for path in folder.iterdir() if path.is_dir()} == arrays
    files = {name for stage in STAGES if not stage.per_checkpoint for name in stage.makes}
    of_visitors = {"hunt.npz", "predicted.json", "evaluation.json", "retrained", "reviews.sqlite"}
    there = {path.name for path in tiny_store.iterdir()} - of_visitors
    assert {name for name in there if not name.startswith("reviews.")} == files | {
        CHECKSUMS,
        FEATURES,
        MANIFEST,
        SEAL,
    }


def test_no_stage_reads_what_a_later_one_makes():
    made: set[str] = set()
    for stage, m in planned(3):
        assert set(stage.needs) <= made, stage.name
        made |= set(stage.makes)
        assert stage.marker(m) == (f"{stage.name} {m}" if stage.per_checkpoint else stage.name)
    assert len({stage.marker(m) for stage, m in planned(3)}) == len(planned(3))

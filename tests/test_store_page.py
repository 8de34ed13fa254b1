"""The Store page and what it says: health from the definitions, commands that really make the store again."""

import shlex
import shutil

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner

from traklens.app.caches import STORE_VARIABLE
from traklens.engine.cli.main import app
from traklens.engine.explore.health import health_of, unseen_by
from traklens.engine.explore.info import disk_use
from traklens.engine.explore.reproduce import commands
from traklens.stores.specs import placeless, to_dict
from traklens.stores.store import open_store


def _page() -> None:
    from traklens.app.caches import current_store
    from traklens.app.views import store as about

    about.show(current_store())


@pytest.fixture(scope="module")
def store(tiny_store):
    return open_store(tiny_store)


def test_health_is_as_defined(store):
    for m, health in enumerate(health_of(store)):
        phi = np.asarray(store.array(m, "phi")[: store.n_train], dtype=np.float64)
        values = np.linalg.eigvalsh(phi.T @ phi)[::-1]
        ridge = store.manifest.score.damping * np.trace(phi.T @ phi) / phi.shape[1]
        np.testing.assert_allclose(health.eigenvalues, values, rtol=1e-3, atol=1e-4 * values[0])
        assert health.ridge == pytest.approx(ridge, rel=1e-4)
        assert health.condition == pytest.approx((values[0] + ridge) / (values[-1] + ridge), rel=1e-2)
        assert health.effective_rank == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-2)
        assert health.unseen == 0.5
        assert health.zero_gradients == 0
        seen = np.asarray(store.array(m, "subset")[:])
        p = np.asarray(store.array(m, "p")[: store.n_train]).mean(axis=1)
        assert health.p_unseen == pytest.approx(p[~seen].mean(), abs=1e-5)
    assert unseen_by(store) == (1, 1)


def test_the_commands_shown_make_the_same_store_again(store, tmp_path):
    train, build = (shlex.split(line) for line in commands(store))
    assert train[:2] == ["traklens", "train"]
    assert train[train.index("--epochs") + 1] == "2"
    again = tmp_path / "again"
    build[build.index("--store") + 1] = str(again)
    result = CliRunner().invoke(app, build[1:])
    assert result.exit_code == 0, result.output
    found = open_store(again)
    for part in ("dataset", "model", "model_output", "projection", "score"):
        assert placeless(to_dict(getattr(found.manifest, part))) == placeless(to_dict(getattr(store.manifest, part)))
    phi = np.asarray(store.array(1, "phi")[:])
    np.testing.assert_allclose(np.asarray(found.array(1, "phi")[:]), phi, atol=1e-3 * np.abs(phi).max())


def test_without_a_run_only_the_build_is_shown(store, tmp_path):
    shutil.copytree(store.path, tmp_path / "elsewhere" / "store")
    lines = commands(open_store(tmp_path / "elsewhere" / "store"))
    assert len(lines) == 1
    assert lines[0].count("--checkpoint") == store.n_checkpoints


def test_disk_use_counts_every_file(store):
    total = sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file())
    assert sum(disk_use(store).values()) == total


def test_the_page_shows_facts_commands_and_spectra(store, monkeypatch):
    monkeypatch.setenv(STORE_VARIABLE, str(store.path))
    at = AppTest.from_function(_page, default_timeout=60).run()
    assert not at.exception
    page = "\n".join(element.proto.body for element in at.get("html"))
    assert "each training pair for 1 of them" in page
    assert "zero gradients" in page
    assert "traklens build" in str(at.code[0].value)
    assert "features.zarr" in page
    assert "eigenvalue" in at.get("plotly_chart")[0].proto.spec

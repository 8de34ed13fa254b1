"""The index is FAISS's own file, written row by row, and both ends of its ranking are exact up to float16."""

import subprocess
import sys

import faiss
import numpy as np
import pytest

from traklens.stores.errors import StoreError
from traklens.stores.index import LARGEST, IndexWriter, VectorIndex, recall_against, scale_for


def _write(folder, rows: np.ndarray, scale: float = 1.0, block: int = 7) -> VectorIndex:
    writer = IndexWriter(folder, "some", rows.shape[1], scale)
    for start in range(0, len(rows), block):
        writer.append(rows[start : start + block])
    writer.close()
    return VectorIndex(folder, "some")


@pytest.mark.parametrize(("n", "dim"), [(1, 3), (50, 16), (301, 33)])
def test_the_streamed_file_has_the_bytes_faiss_would_write(tmp_path, n, dim):
    rows = np.random.default_rng(0).normal(size=(n, dim)).astype(np.float32)
    _write(tmp_path, rows)
    index = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.train(rows)
    index.add(rows)
    faiss.write_index(index, str(tmp_path / "whole.faiss"))
    assert (tmp_path / "some.faiss").read_bytes() == (tmp_path / "whole.faiss").read_bytes()


def test_extremes_and_scores_equal_float64_products_of_the_stored_rows(tmp_path):
    rng = np.random.default_rng(1)
    rows, query = rng.standard_t(3, size=(400, 24)).astype(np.float32) * 1e-4, rng.normal(size=24).astype(np.float32)
    scale = scale_for(float(np.abs(rows).max()))
    index = _write(tmp_path, rows, scale)
    stored = (rows * np.float32(scale)).astype(np.float16).astype(np.float64) / scale
    exact = stored @ query
    best, best_rows, worst, worst_rows = index.extremes(query, 10)
    order = np.argsort(-exact)
    assert best_rows.tolist() == order[:10].tolist()
    assert worst_rows.tolist() == order[::-1][:10].tolist()
    np.testing.assert_allclose(best, exact[order[:10]], rtol=1e-5)
    np.testing.assert_allclose(worst, exact[order[::-1][:10]], rtol=1e-5)
    rounding = 1e-5 * np.abs(exact).max()
    np.testing.assert_allclose(index.scores(query), exact, atol=rounding)
    some = np.array([3, 3, 399])
    np.testing.assert_allclose(index.scores(query, some), exact[some], atol=rounding)


@pytest.mark.parametrize("command", ["query", "info", "build", "hunt"])
def test_without_faiss_every_command_says_what_to_install(tiny_demo, tmp_path, command):
    arguments = {
        "query": [tiny_demo / "store", "--id", "0"],
        "info": [tiny_demo / "store"],
        "build": [tiny_demo / "data", "--run", tiny_demo / "run", "--store", tmp_path / "store"],
        "hunt": [tiny_demo / "store"],
    }[command]
    code = "import sys; sys.modules['faiss'] = None; from traklens.engine.cli.main import main; main()"
    run = [sys.executable, "-c", code, command, *map(str, arguments)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert 'Install "traklens[cpu]"' in " ".join((done.stdout + done.stderr).split())


def test_float16_rounding_moves_scores_by_less_than_a_thousandth(tmp_path):
    rng = np.random.default_rng(2)
    rows, query = rng.normal(size=(300, 512)).astype(np.float32) * 3e-7, rng.normal(size=512).astype(np.float32)
    index = _write(tmp_path, rows, scale_for(float(np.abs(rows).max())))
    exact = rows.astype(np.float64) @ query
    assert np.abs(index.scores(query) - exact).max() < 1e-3 * np.abs(exact).max()


@pytest.mark.parametrize("largest", [1e-20, 3e-5, 1.0, 65504.0, 1e9])
def test_the_scale_brings_the_largest_number_well_inside_float16(largest):
    assert 2**13 <= largest * scale_for(largest) <= 2**14


@pytest.mark.parametrize("nothing", [0.0, float("nan"), float("inf")])
def test_the_scale_of_nothing_is_one(nothing):
    assert scale_for(nothing) == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, 2 * LARGEST])
def test_rows_that_do_not_fit_are_refused(tmp_path, bad):
    writer = IndexWriter(tmp_path, "some", 2, 1.0)
    with pytest.raises(StoreError, match="not finite or too large"):
        writer.append(np.array([[0.0, bad]], dtype=np.float32))


def test_asking_for_more_than_there_is_gives_all(tmp_path):
    rows = np.eye(3, dtype=np.float32)
    scores, found = _write(tmp_path, rows).search(np.array([[3.0, 1.0, 2.0]], dtype=np.float32), 10)
    assert found.tolist() == [[0, 2, 1]]
    assert scores.tolist() == [[3.0, 2.0, 1.0]]


def test_a_query_of_another_width_is_refused(tmp_path):
    index = _write(tmp_path, np.eye(3, dtype=np.float32))
    with pytest.raises(StoreError, match="a query of 4 numbers"):
        index.search(np.zeros((1, 4), dtype=np.float32), 1)


def test_a_foreign_or_truncated_index_is_refused(tmp_path):
    _write(tmp_path, np.eye(3, dtype=np.float32))
    path = tmp_path / "some.faiss"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(StoreError, match="bytes"):
        VectorIndex(tmp_path, "some")
    path.write_bytes(b"x" * len(content))
    with pytest.raises(StoreError, match="unreadable"):
        VectorIndex(tmp_path, "some")


def test_recall_counts_both_directions(tmp_path):
    rng = np.random.default_rng(3)
    rows, queries = rng.normal(size=(60, 8)).astype(np.float32), rng.normal(size=(4, 8)).astype(np.float32)
    index = _write(tmp_path, rows)
    exact = queries.astype(np.float64) @ rows.T
    assert recall_against(index, exact, queries, top=5) == {"proponents": 1.0, "opponents": 1.0}
    assert recall_against(index, np.roll(exact, 30, axis=1), queries, top=5)["proponents"] < 0.5


@pytest.mark.parametrize(("n", "dim"), [(1, 1), (7, 3), (64, 100), (300, 8192)])
def test_one_pass_products_equal_float64_of_the_same_rows(n, dim):
    from traklens.stores.inner_products import products

    rng = np.random.default_rng(4)
    codes, query = rng.normal(size=(n, dim)).astype(np.float16), rng.normal(size=dim).astype(np.float32)
    codes.flat[0], codes.flat[-1] = 6e-8, -65504.0  # the smallest subnormal and the largest number of float16
    exact = codes.astype(np.float64) @ query.astype(np.float64)
    bound = 2e-6 * (np.abs(codes.astype(np.float64)) @ np.abs(query))
    assert (np.abs(products(codes, query) - exact) <= bound + 1e-12).all()


def test_extremes_are_those_of_two_faiss_searches(tmp_path):
    rng = np.random.default_rng(5)
    rows, query = rng.normal(size=(500, 32)).astype(np.float32), rng.normal(size=32).astype(np.float32)
    index = _write(tmp_path, rows)
    best, best_rows, worst, worst_rows = index.extremes(query, 12)
    scores, found = index.search(np.stack([query, -query]), 12)
    assert best_rows.tolist() == found[0].tolist()
    assert worst_rows.tolist() == found[1].tolist()
    np.testing.assert_allclose(best, scores[0], rtol=1e-5)
    np.testing.assert_allclose(worst, -scores[1], rtol=1e-5)


def test_equal_scores_keep_the_order_of_the_rows(tmp_path):
    index = _write(tmp_path, np.ones((40, 2), dtype=np.float32))
    _, best, _, worst = index.extremes(np.array([1.0, 2.0], dtype=np.float32), 5)
    assert best.tolist() == worst.tolist() == [0, 1, 2, 3, 4]

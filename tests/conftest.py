"""Fixtures shared by the tests, and the rule that continuous integration skips nothing it could run."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; see CONTRIBUTING.md."""
    folder = os.environ.get("TRAKLENS_TEST_DATA")
    if not folder:
        pytest.skip("TRAKLENS_TEST_DATA is not set: the real data sets are not at hand")
    assert Path(folder).is_dir(), f"TRAKLENS_TEST_DATA names {folder}, which is no folder"
    return Path(folder)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """With TRAKLENS_FORBID_SKIPS=browser,realdata a skip of a test with one of these markers is a failure."""
    outcome = yield
    report = outcome.get_result()
    forbidden = {name for name in os.environ.get("TRAKLENS_FORBID_SKIPS", "").split(",") if name}
    if report.skipped and not hasattr(report, "wasxfail") and forbidden & {mark.name for mark in item.iter_markers()}:
        report.outcome = "failed"
        report.longrepr = f"skipped where skips are forbidden: {call.excinfo.value if call.excinfo else ''}"

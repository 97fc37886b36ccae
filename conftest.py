"""What all tests share: no network beyond this machine, prerequisites that may be missing on a laptop but not in CI."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import settings
from support import postgres

from mis_lib.cli.doctor import BROWSERS, find_browser

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # there is a process a core already
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

settings.register_profile(
    "patient", deadline=None
)  # a busy machine takes longer than the 200 ms that Hypothesis allows an example
settings.load_profile("patient")

LONGEST = (
    "test_app_annotate_browser",
    "test_variants_mini",
    "test_app_browser",
    "test_train_engine",
    "test_app_desk_browser",
    "test_stages_server",
    "test_cli",
)
"""The longest files begin first, so that no process has one left for itself; browsers alternate with others."""


def missing(what: str) -> NoReturn:
    """Skip the running test for want of ``what``, or fail it where nothing may be missing (``CI=true``)."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}; under CI=true that is a failure")
    pytest.skip(what)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported stays: full collections need not walk through it


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("browser") and find_browser() is None:
        missing(f"no browser: none of {', '.join(BROWSERS)} is on the PATH (Debian: apt-get install chromium)")
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")  # also in CI: machines without a GPU are ordinary ones


@pytest.fixture(scope="session")
def chromium_path() -> Path:
    """Path of Chromium for ``playwright.chromium.launch(executable_path=...)``; mark the test ``browser``."""
    path = find_browser()
    assert path is not None, "mark tests that use chromium_path with @pytest.mark.browser"
    return path


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a PostgreSQL server that the tests start for themselves."""
    programs = postgres.find_programs()
    if programs is None:
        missing(
            "no PostgreSQL: neither initdb on the PATH nor /usr/lib/postgresql (Debian: apt-get install postgresql)"
        )
    with postgres.cluster(programs) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'annotations.sqlite'}"
    return postgres.new_database(request.getfixturevalue("postgres_server"))


@pytest.fixture
def reported() -> Iterator[None]:
    """What recipes report is shown on standard error, as on the command line."""
    from mis_lib.cli.console import Terminal
    from mis_lib.recipes.progress import report_to

    before = report_to(Terminal())
    yield
    report_to(before)

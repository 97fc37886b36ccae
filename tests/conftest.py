"""What all tests share: no network beyond this machine, and prerequisites that may be missing on a laptop but not in CI."""

import os
from pathlib import Path

import pytest

from mis_lib.doctor import BROWSERS, find_browser

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")


def missing(what: str) -> None:
    """Skip the running test for want of ``what``, or fail it where nothing may be missing (``CI=true``)."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}; under CI=true that is a failure")
    pytest.skip(what)


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

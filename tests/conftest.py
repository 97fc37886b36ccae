"""What all tests share: no network beyond this machine, and prerequisites that may be missing on a laptop but not in CI."""

import os
import shutil
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def missing(what: str) -> None:
    """Skip the running test for want of ``what``, or fail it where nothing may be missing (``CI=true``)."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}; under CI=true that is a failure")
    pytest.skip(what)


def find_chromium() -> Path | None:
    """The browser that is installed on this machine; Playwright's own download is not needed."""
    found = (shutil.which(name) for name in CHROMIUM_NAMES)
    return next((Path(path) for path in found if path), None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("browser") and find_chromium() is None:
        missing(f"no browser: none of {', '.join(CHROMIUM_NAMES)} is on the PATH (Debian: apt-get install chromium)")
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")  # also in CI: machines without a GPU are ordinary ones


@pytest.fixture(scope="session")
def chromium_path() -> Path:
    """Path of Chromium for ``playwright.chromium.launch(executable_path=...)``; mark the test ``browser``."""
    path = find_chromium()
    assert path is not None, "mark tests that use chromium_path with @pytest.mark.browser"
    return path

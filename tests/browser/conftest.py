"""One Chromium a file, and pages in it. Nothing is asserted about speed; limits are those of a busy machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright
from support.visitor import DESK, FLAGS, PATIENCE, Visitor

expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def browser(chromium_path: Path) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium_path, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator:
    """Open pages; afterwards none of them may have called another machine or thrown an error."""
    visitors: list[Visitor] = []

    def open_page(url: str, viewport: dict[str, int] = DESK, scheme: str = "light") -> Visitor:
        visitors.append(Visitor(browser, url, viewport, scheme))
        return visitors[-1]

    yield open_page
    for visitor in visitors:
        visitor.context.close()
    assert [visitor.foreign for visitor in visitors] == [[]] * len(visitors)
    assert [visitor.complaints for visitor in visitors] == [[]] * len(visitors)

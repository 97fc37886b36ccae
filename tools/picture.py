"""A picture of the app as it is, or a short animation of a comparison.

An example asked and answered by the real model, drawn data only, light, 1280 pixels wide.

    python app.py --picture app.png
    python app.py --picture compare.webp        # the answers as they come

It needs Chromium and playwright (extra ``test``). Images of harmful items stay blurred in a picture; the animation
begins with them shown, as after a click.
"""

import io
import itertools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from mis_lib.cli.doctor import find_browser
from mis_lib.errors import MissingPackageError, ModelError
from workbench.links import Link, Tab

if TYPE_CHECKING:
    from playwright.sync_api import Page

SIZE = {"width": 1280, "height": 1000}
WHOLE = {"width": 1280, "height": 1800}  # so high that the form under the answers covers none of them
FLAGS = ["--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
MINUTES = 5
MARGIN = 6  # pixels below the form under the answers, where the picture ends
ANIMATED = ".webp"
FRAME_WIDTH = 960
LAST_FRAME_MS = 4_000


def take(url: str, item: str, target: Path, *, variants: tuple[str, ...] = ()) -> None:
    """Open the app at ``url`` with an example, compare, and save the page (PNG) or the answers coming (WebP).

    Raises:
        MissingPackageError: there is no playwright, or no Chromium.
        ModelError: no answer came.
    """
    browser = find_browser()
    try:
        from playwright.sync_api import TimeoutError as TooLate
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise MissingPackageError('--picture needs playwright: pip install "mis-workbench[test]"') from error
    if browser is None:
        raise MissingPackageError("--picture needs Chromium on the PATH (Debian: apt-get install chromium)")
    address = f"{url.rstrip('/')}/{Link(tab=Tab.COMPARE, item=item, variants=variants).query()}"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=browser, args=FLAGS)
        page = started.new_context(viewport=SIZE, color_scheme="light").new_page()  # pyright: ignore[reportArgumentType]
        page.set_default_timeout(MINUTES * 60_000)
        page.add_init_script("localStorage.setItem('mis-tour', 'done')")
        try:
            page.goto(address)
            page.locator(".mis-pill.mis-ready").wait_for()
            page.locator(".mis-tile").nth(1).wait_for()
            frames = _compare(page, record=target.suffix == ANIMATED)
        except TooLate as error:
            raise ModelError(f"--picture: no answer within {MINUTES} minutes; see what the app prints") from error
        if frames:
            _animate(frames, target)
        else:
            _whole(page, target)
        started.close()


def _compare(page: "Page", *, record: bool) -> list[tuple[float, bytes]]:
    """Press Compare and wait for the answers; with ``record`` the pictures on the way, each with its second."""
    done = page.locator("#mis-status", has_text="Done after")
    if not record:
        page.click("#mis-compare")
        done.wait_for()
        return []
    page.set_viewport_size(WHOLE)  # pyright: ignore[reportArgumentType]
    for veiled in page.locator("#mis-prompt [data-reveal]").all():
        veiled.click()
    page.click("#mis-compare")
    began, frames = time.monotonic(), []
    while True:
        ended = done.count() > 0 or time.monotonic() - began > MINUTES * 60
        box = page.locator("#mis-results").bounding_box() or {"x": 0.0, "y": 0.0, **SIZE}
        frames.append((time.monotonic() - began, page.screenshot(clip=_frame(box))))
        if ended:
            done.wait_for()
            return frames


def _frame(box: Any) -> Any:
    """The part of the page with the answers."""
    return {"x": box["x"] - MARGIN, "y": box["y"] - MARGIN, "width": box["width"] + 2 * MARGIN, "height": 470}


def _animate(frames: list[tuple[float, bytes]], target: Path) -> None:
    """Write the pictures as one animated WebP that shows each as long as it was seen; the last one stays."""
    images = [Image.open(io.BytesIO(data)).convert("RGB") for _, data in frames]
    height = round(images[-1].height * FRAME_WIDTH / images[-1].width)
    small = [image.resize((FRAME_WIDTH, height), Image.Resampling.LANCZOS) for image in images]
    starts = [second for second, _ in frames]
    shown = [max(20, round(1000 * (after - before))) for before, after in itertools.pairwise(starts)]
    small[0].save(
        target, save_all=True, append_images=small[1:], duration=[*shown, LAST_FRAME_MS], loop=0, quality=70, method=6
    )


def _whole(page: "Page", target: Path) -> None:
    """The page down to the form under the answers."""
    page.add_style_tag(content="#mis-results { min-height: 0 !important }")  # no room to scroll is needed
    page.set_viewport_size(WHOLE)  # pyright: ignore[reportArgumentType]
    page.evaluate("window.scrollTo(0, 0)")
    page.wait_for_timeout(700)
    box = page.locator(".mis-live").bounding_box() or {"y": 0, "height": SIZE["height"]}
    shown: Any = {"x": 0, "y": 0, "width": SIZE["width"], "height": box["y"] + box["height"] + MARGIN}
    page.screenshot(path=target, full_page=True, clip=shown)

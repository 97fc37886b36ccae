"""A picture of the app as it is.

An example asked and answered by the real model, drawn data only, light, 1280 pixels wide.

    python app.py --picture app.png

It needs Chromium and playwright (extra ``test``); images of harmful items stay blurred in it.
"""

from pathlib import Path

from mis_lib.cli.doctor import find_browser
from mis_lib.errors import MissingPackageError, ModelError
from workbench.links import Link, Tab

SIZE = {"width": 1280, "height": 1000}
WHOLE = {"width": 1280, "height": 1800}  # so high that the form under the answers covers none of them
FLAGS = ["--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
MINUTES = 5
MARGIN = 6  # pixels below the form under the answers, where the picture ends


def take(url: str, item: str, target: Path, *, variants: tuple[str, ...] = ()) -> None:
    """Open the app at ``url`` with an example, compare, and save what is seen as PNG.

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
            page.click("#mis-compare")
            page.locator("#mis-status", has_text="Done after").wait_for()
        except TooLate as error:
            raise ModelError(f"--picture: no answer within {MINUTES} minutes; see what the app prints") from error
        page.add_style_tag(content="#mis-results { min-height: 0 !important }")  # no room to scroll is needed
        page.set_viewport_size(WHOLE)  # pyright: ignore[reportArgumentType]
        page.evaluate("window.scrollTo(0, 0)")
        page.wait_for_timeout(700)
        box = page.locator(".mis-live").bounding_box() or {"y": 0, "height": SIZE["height"]}
        shown = {"x": 0, "y": 0, "width": SIZE["width"], "height": box["y"] + box["height"] + MARGIN}
        page.screenshot(path=target, full_page=True, clip=shown)  # pyright: ignore[reportArgumentType]
        started.close()

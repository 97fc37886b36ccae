"""A page of the app in a real Chromium, as one person uses it."""

import os
import re
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Locator, Page, Request, expect

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # a page reaches this machine only
]
DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
PATIENCE = 120_000  # milliseconds that an expected state may take: machines are slow, what is there is seen at once
LOCAL = ("http://127.0.0.1", "data:", "blob:")


class Visitor:
    """One person's browser: a page, and everything that it asked of other machines or complained about."""

    def __init__(self, browser: Browser, url: str, viewport: dict[str, int], scheme: str) -> None:
        self.foreign: list[str] = []
        self.complaints: list[str] = []
        self.context: BrowserContext = browser.new_context(
            viewport=viewport,  # pyright: ignore[reportArgumentType]
            color_scheme=scheme,  # pyright: ignore[reportArgumentType]
            permissions=["clipboard-read", "clipboard-write"],
        )
        self.context.on("request", self._note)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(url)
        expect(self.page.locator(".mis-pill.mis-ready")).to_be_visible()
        expect(self.page.locator(".mis-card").first).to_be_attached()  # hidden where the address opens another tab

    def _note(self, request: Request) -> None:
        if not request.url.startswith(LOCAL):
            self.foreign.append(request.url)

    def card(self, title: str) -> Locator:
        return self.page.locator(".mis-card", has_text=title)

    def load(self, title: str, kind: str = "harmful") -> None:
        self.card(title).locator(f"button.mis-{kind}").click()
        expect(self.page.locator(".mis-tile")).to_have_count(2)

    def compare(self) -> None:
        # the line of the comparison before says "Done after" too, until this one has begun
        self.page.evaluate(
            "document.querySelectorAll('#mis-status [class*=mis-status]').forEach(e => { e.dataset.before = 'yes'; })"
        )
        self.page.click("#mis-compare")
        expect(self.page.locator("#mis-status [data-before]")).to_have_count(0)
        expect(self.page.locator("#mis-status")).to_contain_text("Done after")
        expect(self.page.locator("#mis-compare")).to_be_visible()

    def column(self, variant: str) -> Locator:
        return self.page.locator(f'.mis-column[data-variant="{variant}"]')

    def ticked(self) -> Locator:
        return self.page.locator("#mis-variants label:has(input:checked)")

    def names(self) -> list[str]:
        return self.page.locator(".mis-tile figcaption").all_inner_texts()

    def picture(self, name: str) -> None:
        if target := os.environ.get("MIS_SCREENSHOTS"):
            self.page.screenshot(path=Path(target) / f"{name}.png")


def contrast(element: Locator) -> float:
    """Contrast of an element's text against the ground it stands on (WCAG 2)."""
    text, ground = element.evaluate("""e => {
        let at = e;
        while (at && /rgba\\(.*, 0\\)|transparent/.test(getComputedStyle(at).backgroundColor)) at = at.parentElement;
        return [getComputedStyle(e).color, at ? getComputedStyle(at).backgroundColor : 'rgb(255, 255, 255)'];
    }""")
    light, dark = sorted((luminance(text), luminance(ground)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

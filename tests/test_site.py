"""The documentation site: it builds with every link and anchor in place, and its pages load nothing from elsewhere.

pytest tests/test_site.py
"""

import logging
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
from mkdocs.commands.build import build
from mkdocs.config import load_config

from mis_lib.cli.main import app
from mis_lib.train.settings import TrainSettings
from tools import site_pages

ROOT = Path(__file__).parent.parent
FOREIGN = re.compile(r"(?:https?:)?//")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as ``mkdocs build --strict`` makes it, which ends at the first warning."""
    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(folder)))
    return folder


class Loaded(HTMLParser):
    """Collects the addresses that a browser fetches to show a page; links that a reader follows are none."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        fetched = [given.get(name) for name in ("src", "srcset", "data", "poster")]
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            fetched.append(given.get("href"))
        self.addresses += [*filter(None, fetched), *re.findall(r"url\(([^)]+)\)", given.get("style") or "")]

    def foreign(self) -> list[str]:
        return [address for address in self.addresses if FOREIGN.match(address)]


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    loaded = {path.relative_to(site).as_posix(): Loaded(path.read_text("utf-8")) for path in site.rglob("*.html")}
    assert len(loaded) > 60 and all(page.addresses for page in loaded.values())
    assert {name: page.foreign() for name, page in loaded.items() if page.foreign()} == {}
    styles = "".join(path.read_text("utf-8") for path in site.rglob("*.css"))
    assert not re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^\s)]+", styles)


def test_what_a_page_loads_from_elsewhere_is_found() -> None:
    page = '<script src="https://a/b.js"></script><link rel="stylesheet" href="//c/d.css"><a href="https://e">e</a>'
    assert Loaded(page).foreign() == ["https://a/b.js", "//c/d.css"]


def test_notebooks_commands_and_settings_have_their_pages(site: Path) -> None:
    for path in ROOT.glob("notebooks/*.ipynb"):
        assert "shows the notebook without its outputs" in (site / "tutorials" / path.stem / "index.html").read_text()
    commands = (site / "reference/commands/index.html").read_text("utf-8")
    verbs = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    assert [name for name in verbs if f'id="mis-{name}"' not in commands] == []
    settings = (site / "reference/settings/index.html").read_text("utf-8")
    assert [name for name in TrainSettings.model_fields if f"<code>{name}</code>" not in settings] == []
    assert "score_run" in (site / "reference/python/index.html").read_text("utf-8")


def test_a_link_into_the_repository_is_resolved_or_noticed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_pages.log, "disabled", False)  # a migration of annotations switches other loggers off
    page = ROOT / "docs/how-to/any.md"
    text = "[first](../../notebooks/01_construct_dataset.ipynb), [`LICENSE`](../../LICENSE), "
    text += "[terms](../../LICENSE), [b](b.md)"
    assert site_pages.linked(text, page, "how-to/any.md") == (
        "[first](../tutorials/01_construct_dataset.md), `LICENSE`, terms (`LICENSE`), [b](b.md)"
    )
    with caplog.at_level(logging.WARNING):
        site_pages.linked("[gone](../../mis_lib/gone.py)", page, "how-to/any.md")
    assert "any.md links to ../../mis_lib/gone.py, which is not there" in caplog.text


def test_lists_and_tables_are_set_apart_but_not_in_code() -> None:
    text = "Words:\n- one\n  more\n- two\n```\na\n- b\n```\n| a |\n"
    assert site_pages.spaced(text) == "Words:\n\n- one\n  more\n- two\n```\na\n- b\n```\n\n| a |\n"

"""Finds the pictures of an HTML page and tells which of them are seen before anything is clicked."""

from html.parser import HTMLParser


class Pictures(HTMLParser):
    """Pictures of a page by whether they can be seen before anything is clicked."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.hidden = 0
        self._inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("details", "summary"):
            closed = tag == "summary" or "open" not in dict(attrs)
            self._inside.append(tag if closed else "shown")
        elif tag == "img":
            if "details" in self._inside and self._inside[-1] != "summary":
                self.hidden += 1
            else:
                self.open.append(dict(attrs).get("src") or "")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("details", "summary") and self._inside:
            self._inside.pop()

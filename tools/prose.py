"""Sentences that are too long, and words of a private dialect, counted in documents and in the help of ``mis``.

    python -m tools.prose            # a line for each document: sentences, long ones, private words
    python -m tools.prose --list     # and what was found

A test holds the counts to the committed ones (``tests/data/prose.json``): they may fall, and not grow.
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

from mis_lib.schema import Record
from tools.documents import ROOT, documents

LONGEST = 30  # words in a sentence
PRIVATE = re.compile(
    r"\b(told|lies|lie|lying|stands|beside|besides|by hands|goes by|go by|whoever|whosoever|anew|thereby|therein)\b",
    re.IGNORECASE,
)
NO_PROSE = re.compile(r"```.*?```|<!--.*?-->|^\s*\|.*?\|\s*$|^#.*?$|^---$.*?^---$", re.DOTALL | re.MULTILINE)
END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`*\[(\"])|\n\s*(?:[-*]|\d+\.)\s+|\n\s*\n")
QUOTED = re.compile(r"`[^`]*`|\"[^\"\n]*\"|\]\([^)]*\)")


class Prose(Record):
    """What is counted in one text."""

    sentences: int
    long: list[str]
    private: list[str]


def read(text: str) -> Prose:
    """Count a Markdown text; code, tables and headings are no sentences, quotations keep their words."""
    parts = [" ".join(part.split()) for part in END.split(NO_PROSE.sub("\n\n", text))]
    sentences = [part for part in parts if len(part.split()) > 1]
    plain = [QUOTED.sub(" x ", sentence) for sentence in sentences]
    return Prose(
        sentences=len(sentences),
        long=[sentence for sentence, words in zip(sentences, plain, strict=True) if len(words.split()) > LONGEST],
        private=[found.group().lower() for words in plain for found in PRIVATE.finditer(words)],
    )


def help_text(command: object) -> str:
    """The help of a command, of its options and of the commands below it, a paragraph each."""
    return "\n\n".join(_helps(command))


def pages(root: Path = ROOT) -> dict[str, str]:
    """Documents, and the words of notebooks, by their path."""
    found = [*documents(root), root / "CONTRIBUTING.md"]
    texts = {path: path.read_text(encoding="utf-8") for path in found}
    texts |= {path: _markdown_cells(path) for path in sorted(root.glob("notebooks/*.ipynb"))}
    return {path.relative_to(root).as_posix(): text for path, text in texts.items()}


def _markdown_cells(path: Path) -> str:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def _helps(command: object) -> Iterator[str]:
    yield getattr(command, "help", "") or ""
    for option in getattr(command, "params", []):
        yield getattr(option, "help", "") or ""
    for inner in getattr(command, "commands", {}).values():
        yield from _helps(inner)


def main() -> None:
    """Print the counts."""
    import typer

    from mis_lib.cli.main import app

    parser = argparse.ArgumentParser(prog="python -m tools.prose", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--list", action="store_true", help="show the sentences and the words")
    listed = parser.parse_args().list
    for name, text in {**pages(), "mis --help": help_text(typer.main.get_command(app))}.items():
        found = read(text)
        print(f"{name}: {found.sentences} sentences, {len(found.long)} long, {len(found.private)} private words")
        if listed:
            print(*(f"  {sentence}" for sentence in found.long), f"  {sorted(found.private)}", sep="\n")


if __name__ == "__main__":
    main()

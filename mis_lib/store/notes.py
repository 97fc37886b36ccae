"""What people note about a run, in ``note.md`` of its folder: words for people, from which nothing follows, and the last who writes has said it."""

from pathlib import Path

from mis_lib.errors import SettingsError
from mis_lib.files import write_atomic

NOTE = "note.md"
LONGEST = 2_000  # characters


def read_note(folder: Path) -> str:
    """The note in a run's folder; empty where there is none."""
    try:
        return (folder / NOTE).read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return ""


def fitting(text: str) -> str:
    """A note as it is kept, without space around it.

    Raises:
        SettingsError: it is too long.
    """
    text = text.strip()
    if len(text) > LONGEST:
        raise SettingsError(f"note: expected at most {LONGEST:,} characters, found {len(text):,}; shorten it")
    return text


def write_note(folder: Path, text: str) -> None:
    """Keep a note in a run's folder in place of the one that is there; an empty one takes that away.

    Raises:
        SettingsError: it is too long.
    """
    if text := fitting(text):
        write_atomic(folder / NOTE, f"{text}\n".encode())
    else:
        (folder / NOTE).unlink(missing_ok=True)

"""Errors of the workbench: one root, leaves that are also the standard type a caller expects.

Every message says what was expected, what was found, where (file, row, field) and how to put it right. To add a leaf,
inherit from ``MisError`` and from the builtin it refines, so that ``except ValueError`` keeps working.
"""

import difflib
from collections.abc import Iterable


class MisError(Exception):
    """Root of all errors raised on purpose by this project."""


class DataError(MisError, ValueError):
    """A record, file or table does not have the promised form."""


class ImageError(DataError):
    """An image cannot be used: unreadable, truncated, too large, or not an image at all."""


class ModelError(MisError, RuntimeError):
    """A checkpoint, adapter or processor is missing, damaged or does not fit."""


class AdapterWarning(UserWarning):
    """An adapter is used on a checkpoint that it was not trained on."""


class TrainingError(MisError, RuntimeError):
    """Training cannot go on: the loss is no number, a checkpoint cannot be written."""


class SettingsError(MisError, ValueError):
    """A setting is unknown, out of range or contradicts another one."""


class MissingPackageError(MisError, ImportError):
    """A package is missing or broken; the message names the command that installs it."""


def close_to(name: str, known: Iterable[str]) -> str:
    """``" (did you mean 'x' or 'y'?)"`` for the known names that look like ``name``; empty if none does."""
    close = difflib.get_close_matches(name, list(known), n=3)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""

"""Words for an export, apart from its code so that a command line can name them at once."""

from enum import StrEnum


class Form(StrEnum):
    """Forms of other trainers, and ours."""

    LLAMAFACTORY = "llamafactory"
    SWIFT = "swift"
    TRL = "trl"
    JSONL = "jsonl"


class Images(StrEnum):
    """What becomes of the images."""

    COPY = "copy"
    KEEP = "keep"

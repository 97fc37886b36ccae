"""What a server says is wrong. The ``openai`` client quotes it only where OpenAI puts it (``error.message``); FastAPI, and so many a server, puts it elsewhere."""

import os
from typing import Any

import openai

SHORTEST_KEY = (
    8  # characters; servers on one's own machine take any word for a key, and that may stand in what they say
)


def told(error: openai.APIError) -> str:
    """The client's words and the server's, without the key, which some repeat: what is told is shown and stored."""
    words = _complaint(error.body)
    return without_key(error.message if words in error.message else f"{error.message} - {words}")


def without_key(words: str) -> str:
    """The words with another word in place of the key."""
    key = os.environ.get("OPENAI_API_KEY", "")
    return words.replace(key, "(the key)") if len(key) >= SHORTEST_KEY else words


def in_short(error: openai.APIError) -> str:
    """The same in one line of at most 200 characters."""
    return " ".join(told(error).split())[:200]


def _complaint(body: Any) -> str:
    """OpenAI's ``message``, FastAPI's ``detail`` (a text, or a list of places and messages that also repeats what was sent), or plain text."""
    if isinstance(body, list):
        return "; ".join(filter(None, map(_complaint, body)))
    if isinstance(body, dict):
        words = next(
            (found for name in ("message", "detail", "msg", "error") if (found := _complaint(body.get(name)))), ""
        )
        return ": ".join(filter(None, (".".join(map(str, body.get("loc") or ())), words)))
    return body if isinstance(body, str) else ""

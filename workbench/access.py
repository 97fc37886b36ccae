"""Who may use the app: a text file of names and hashed passwords, one ``name:scrypt:SALT:HASH`` a line.

    python -m workbench.access ada >> users.txt     # asks for the password, prints the line
    python app.py --host 0.0.0.0 --auth users.txt

Passwords are compared in constant time. Wrong ones are answered ever more slowly for that name, up to ``LONGEST_WAIT``.
"""

import argparse
import asyncio
import getpass
import hashlib
import hmac
import os
import string
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path

from mis_lib.errors import SettingsError

COST = {"n": 2**14, "r": 8, "p": 1}
FREE_TRIES = 3
LONGEST_WAIT = 8.0  # seconds
MOST_WAITING = 20  # tries for one name at a time: a flood of guesses locks the name for 160 seconds more, not for hours


class Users:
    """Names with hashed passwords; ``check`` is what Gradio calls at a login."""

    def __init__(
        self, hashes: dict[str, tuple[bytes, bytes]], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._hashes, self._sleep = hashes, sleep
        self._wrong: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @classmethod
    def read(cls, path: Path) -> "Users":
        """Read the file; blank lines and lines that begin with ``#`` are skipped.

        Raises:
            SettingsError: the file is missing, empty, or a line has another form (row named, content not shown).
        """
        if not path.is_file():
            raise SettingsError(f"--auth: expected a file of names and hashed passwords, found nothing at {path}")
        hashes = {}
        for row, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip() and not line.startswith("#"):
                name, salt, digest = _parse(line, f"{path}, row {row}")
                hashes[name] = (salt, digest)
        if not hashes:
            raise SettingsError(
                f"--auth: {path} names no person; add a line with `python -m workbench.access NAME >> {path}`"
            )
        return cls(hashes)

    async def check(self, name: str, password: str) -> bool:
        """Whether the password is that name's; held back after wrong ones, without holding up anybody else.

        Tries for one name wait in turn, ``MOST_WAITING`` at most: those that come then are refused unread.
        """
        key = name if name in self._hashes else ""  # one counter for all unknown names: bounded memory
        if self._waiting[key] >= MOST_WAITING:
            return False
        self._waiting[key] += 1
        try:
            async with self._turns[key]:
                return await self._check(key, password)
        finally:
            self._waiting[key] -= 1

    async def _check(self, key: str, password: str) -> bool:
        delay = self.wait(key)
        self._wrong[key] += 1
        await self._sleep(delay)
        salt, digest = self._hashes.get(key, (b"\0" * 16, b""))  # unknown names cost the same time as known ones
        right = hmac.compare_digest(await asyncio.to_thread(_hash, password, salt), digest)
        if right:
            del self._wrong[key]
        return right

    def wait(self, name: str) -> float:
        """Seconds that the next try for this name is held back."""
        wrong = self._wrong[name]
        return 0.0 if wrong < FREE_TRIES else min(LONGEST_WAIT, 0.25 * 2 ** min(wrong - FREE_TRIES, 10))


def entry(name: str, password: str) -> str:
    """The file's line for a person.

    Raises:
        SettingsError: the name is empty or has a colon, or the password is shorter than 8 characters.
    """
    if not name or ":" in name or name != name.strip():
        raise SettingsError(f"name: expected text without ':' and without spaces around it, found {name!r}")
    if len(password) < 8:
        raise SettingsError("password: expected at least 8 characters")
    salt = os.urandom(16)
    return f"{name}:scrypt:{salt.hex()}:{_hash(password, salt).hex()}"


def _parse(line: str, where: str) -> tuple[str, bytes, bytes]:
    match line.strip().split(":"):
        case [name, "scrypt", salt, digest] if name and _is_hex(salt) and _is_hex(digest):
            return name, bytes.fromhex(salt), bytes.fromhex(digest)
    raise SettingsError(
        f"{where}: expected name:scrypt:SALT:HASH; make the line with `python -m workbench.access NAME`"
    )


def _is_hex(text: str) -> bool:
    return len(text) >= 2 and len(text) % 2 == 0 and set(text) <= set(string.hexdigits)


def _hash(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, **COST)


def main() -> None:
    """Print the line for one person, asking for the password."""
    parser = argparse.ArgumentParser(
        prog="python -m workbench.access", description="Make a line for the file of --auth."
    )
    parser.add_argument("name", help="the person's name")
    name = parser.parse_args().name
    try:
        sys.stdout.write(entry(name, getpass.getpass(f"Password for {name}: ")) + "\n")
    except SettingsError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()

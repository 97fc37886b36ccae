"""Which served models answer, as flags say it: ``--server URL#MODEL``, or ``--server URL --models base tuned=LORA other=URL#MODEL``.

A variant is called like its model unless it is given a name, and ``URL#MODEL`` alone is "base", as in ``mis generate``. A full fine-tune fills a server of
its own, so that a model to be compared may name another address than ``--server``. No address carries a password: what was asked is shown and stored.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from mis_lib.errors import SettingsError
from mis_lib.teachers.address import check_address


class Served(NamedTuple):
    """Where a variant is asked: the server's address, and the model's name there."""

    url: str
    model: str

    @property
    def host(self) -> str:
        """Host and port: where images and question go."""
        return urlsplit(self.url).netloc


def read_served(server: str | None, models: Sequence[str] | None) -> dict[str, Served]:
    """The served variants that ``--server`` and ``--models`` name; none where neither is given.

    Raises:
        SettingsError: a model has no address or no name, a name is given twice, or an address is none or carries a password.
    """
    url, _, model = (server or "").partition("#")
    named = named_models(models) or {}
    if model and named:
        raise SettingsError(both_named(model))
    if url and not (model or named):
        raise SettingsError(UNNAMED)
    found = {name: _served(name, target, url) for name, target in named.items()} or (
        {"base": Served(url, model)} if url else {}
    )
    for one in found.values():
        check_address(one.url)
    return found


def named_models(values: Sequence[str] | None) -> dict[str, str] | None:
    """``["base", "tuned=lora"]`` as names of models by variant; ``None`` if nothing was given.

    Raises:
        SettingsError: a value has no name or no model, or two have the same name.
    """
    named: dict[str, str] = {}
    for value in values or ():
        name, equals, target = value.partition("=")
        if not name or (equals and not target) or "://" in name:
            raise SettingsError(f"--models: expected MODEL or NAME=MODEL, found {value!r}")
        if name in named:
            raise SettingsError(
                f"--models: the name {name!r} is taken already; call it something else: NAME={target or name}"
            )
        named[name] = target or name
    return named or None


UNNAMED = "a server's models must be named: --server URL#MODEL, or --models base tuned, NAME=MODEL where a variant is called otherwise"


def both_named(model: str) -> str:
    """Why ``URL#MODEL`` goes with no ``--models``: one of the two would be left out."""
    return f"--server: expected URL alone beside --models, found URL#{model}; put {model} among --models, or leave #{model} out"


def beside(served: Mapping[str, Served], local: Sequence[str]) -> None:
    """Refuse served variants that are called like local ones.

    Raises:
        SettingsError: names the first, and how to call it otherwise.
    """
    for name, one in served.items():
        if name in local:
            raise SettingsError(
                f"--models: the name {name!r} is taken already by a variant of this machine; call it something else: served-{name}={one.model}"
            )


def _served(name: str, target: str, url: str) -> Served:
    if "://" in target:
        own, _, model = target.partition("#")
        if not model:
            raise SettingsError(f"--models {name}: expected the model's name behind the address, as {name}=URL#MODEL")
        return Served(own, model)
    if not url:
        raise SettingsError(f"--models {name}: expected --server URL beside it, or {name}=URL#MODEL")
    return Served(url, target)

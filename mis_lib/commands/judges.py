"""Judges by name: what a specification such as ``rubric=URL#MODEL`` asks for, opened."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mis_lib import console
from mis_lib.clients.cache import Cache
from mis_lib.clients.local import LocalChat
from mis_lib.clients.openai import Caller, only_model, open_client
from mis_lib.clients.protocol import ChatTeacher
from mis_lib.clients.server import ServerChat
from mis_lib.clients.speakers import LocalSpeaker, ServerSpeaker, Speaker
from mis_lib.errors import SettingsError
from mis_lib.judge.guard import GuardJudge, GuardStyle
from mis_lib.judge.offline import RuleJudge, WordsJudge
from mis_lib.judge.precondition import PreconditionJudge
from mis_lib.judge.protocol import Judge
from mis_lib.judge.routing import RoutedJudge, read_router
from mis_lib.judge.rubric import RubricJudge
from mis_lib.settings import Settings

Kind = Literal["rule", "words", "rubric", "guard", "precondition", "routed"]
KINDS = ("rule", "words", "rubric", "guard", "precondition", "routed")
BLIND = frozenset({"rule", "words", "guard", "routed"})  # the others look at the images; routed opens none itself


class JudgeSpec(Settings):
    """One judge."""

    kind: Kind
    target: str | None = None
    """URL or URL#MODEL, local:PATH or local:mini; rule and words need none."""
    max_tokens: int = Field(default=1024, ge=1)
    """rubric: longest reply."""
    seed: int = Field(default=0, ge=0)
    """rubric: another one asks anew what the cache holds."""
    style: GuardStyle = "auto"
    """guard: the family of classifiers."""
    describe: bool = True
    """guard: put what the images show, where it is known, before the question."""
    constitution: Path | None = None
    """precondition: folder with files of one's own."""
    controls: bool = True
    """precondition: take each image away in turn."""
    router: Path | None = None
    """routed: file that ``mis judge --route`` wrote."""
    cheap: str | None = None
    """routed: name of the judge that rules first, and of the one that is asked where the router says so."""
    expensive: str | None = None


class JudgeSettings(Settings):
    """Who rules on what."""

    judges: dict[Annotated[str, Field(pattern=r"^[\w-][\w.-]*$")], JudgeSpec] = Field(
        default={"rule": JudgeSpec(kind="rule")}, min_length=1
    )
    data: Path | None = None
    """Folder of the images, if they are no longer where the run had them."""
    variants: tuple[str, ...] | None = None
    """Only the answers of these."""
    concurrency: int = Field(default=16, ge=1, le=1024)
    """Answers that each judge works on at a time."""
    retries: int = Field(default=5, ge=0, le=20)
    timeout: float = Field(default=300.0, gt=0)
    """Seconds for one call to a server."""
    device: str = "cpu"
    retry_unscored: bool = False
    """Rule again on what is unscored."""


async def open_judge(
    name: str, spec: JudgeSpec, settings: JudgeSettings, cache: Cache, judges: dict[str, Judge]
) -> Judge:
    """The judge that a specification describes; ``judges`` are those opened before it, for a routed one.

    Raises:
        SettingsError: it lacks something, or its server has several models.
        ModelError: its checkpoint is missing.
    """
    if spec.kind in ("rule", "words"):
        judge = RuleJudge() if spec.kind == "rule" else WordsJudge()
        if name != judge.name:
            raise SettingsError(f"judge {name!r}: {spec.kind} has one form only and keeps its name")
        return judge
    if spec.kind == "routed":
        return _routed(name, spec, judges)
    if spec.target is None:
        raise SettingsError(
            f"judge {name!r}: {spec.kind} needs a model, as {spec.kind}=URL#MODEL or {spec.kind}=local:PATH"
        )
    if spec.kind == "rubric":
        return RubricJudge(
            name, await _teacher(spec.target, settings, cache), max_tokens=spec.max_tokens, seed=spec.seed
        )
    speaker = await _speaker(spec.target, settings, cache)
    if spec.kind == "guard":
        return GuardJudge(name, speaker, style=spec.style, describe=spec.describe)
    return PreconditionJudge(name, speaker, constitution=spec.constitution, controls=spec.controls)


def read_judges(named: Iterable[str]) -> dict[str, dict[str, str]]:
    """``["rule", "strict:guard=local:PATH"]`` as specifications by name.

    Raises:
        SettingsError: one is no such name, or two have one name.
    """
    found: dict[str, dict[str, str]] = {}
    for text in named:
        parts = re.fullmatch(r"(?:(?P<name>[\w.-]+):)?(?P<kind>[a-z]+)(?:=(?P<target>.+))?", text)
        if parts is None or parts["kind"] not in KINDS:
            raise SettingsError(f"--judges {text!r}: expected [NAME:]KIND[=TARGET] with KIND one of {', '.join(KINDS)}")
        name = parts["name"] or parts["kind"]
        if name in found:
            raise SettingsError(f"--judges: two are called {name!r}; name them, as in first:{text} second:{text}")
        found[name] = {"kind": parts["kind"], **({"target": parts["target"]} if parts["target"] else {})}
    return found


async def _teacher(target: str, settings: JudgeSettings, cache: Cache) -> ChatTeacher:
    if target.startswith("local:"):
        return LocalChat(_checkpoint(target), cache, settings.device)
    caller, model = await _served(target, settings)
    return ServerChat(caller.client, model, cache)


async def _speaker(target: str, settings: JudgeSettings, cache: Cache) -> Speaker:
    if target.startswith("local:"):
        return LocalSpeaker(LocalChat(_checkpoint(target), cache, settings.device), cache)
    caller, model = await _served(target, settings)
    return ServerSpeaker(caller, model, cache)


async def _served(target: str, settings: JudgeSettings) -> tuple[Caller, str]:
    if not target.startswith(("http://", "https://")):
        raise SettingsError(f"judge: expected URL#MODEL, local:PATH or local:mini, found {target!r}")
    url, _, model = target.partition("#")
    client = open_client(url, retries=settings.retries, timeout=settings.timeout)
    return Caller(client), model or await only_model(client)


def _checkpoint(target: str) -> Path:
    path = target.removeprefix("local:")
    if path != "mini":
        return Path(path)
    from mis_lib.models.mini.assemble import ensure_mini

    return ensure_mini(console.say)


def _routed(name: str, spec: JudgeSpec, judges: dict[str, Judge]) -> RoutedJudge:
    if spec.router is None or spec.cheap not in judges or spec.expensive not in judges:
        raise SettingsError(
            f"judge {name!r}: routed needs router, cheap and expensive, the last two among {', '.join(judges) or 'the other judges'}"
        )
    return RoutedJudge(name, judges[spec.cheap], judges[spec.expensive], read_router(spec.router))

"""What is installed, which device, which weights and data are in place, and what is missing for what.

Looks and never changes anything. A finding is *required* if the app or the command line cannot work without it; weights and data that are
made on first use are not. Nothing here fails because something is missing: that is what it reports.
"""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from packaging.requirements import Requirement

from mis_lib import __version__
from mis_lib.errors import ModelError
from mis_lib.files import cache_dir, is_intact
from mis_lib.schema import Record

DISTRIBUTION = "mis-workbench"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BUILD_BYTES = 1_000_000_000  # the assembled model, the wheel it is made from, and the drawn data
VARIANTS = ("mini", "mirage", "refusal", "textual")


class State(StrEnum):
    """How a thing that was looked for was found."""

    OK = "ok"
    MISSING = "missing"
    DAMAGED = "damaged"


class Finding(Record):
    """One thing looked for: what was found, what it is needed for, and the command that puts it right."""

    name: str
    state: State
    detail: str
    needed_for: str
    required: bool = False
    fix: str = ""


class Diagnosis(Record):
    """All findings; ``ready`` if every required one is in order."""

    version: str
    findings: tuple[Finding, ...]

    @property
    def ready(self) -> bool:
        """Whether the app and the command line can work."""
        return all(finding.state is State.OK for finding in self.findings if finding.required)


def examine() -> Diagnosis:
    """Look at machine, packages, weights, data and browser."""
    findings = [*machine(), *packages(), *weights(), *data(), browser()]
    return Diagnosis(version=__version__, findings=tuple(findings))


def machine() -> Iterator[Finding]:
    """Python, processor, memory, accelerator."""
    python = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding(name="Python", state=State.OK, detail=python, needed_for="everything", required=True)
    yield Finding(name="processor", state=State.OK, detail=_processor(), needed_for="everything")
    yield device()


def device() -> Finding:
    """The device that torch would compute on."""
    found = Finding(name="device", state=State.OK, detail="cpu", needed_for="generation, training")
    try:
        import torch
    except ImportError as error:
        return found.model_copy(
            update={"state": State.MISSING, "detail": f"torch cannot be imported: {error}", "fix": "pip install -e ."}
        )
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return found.model_copy(update={"detail": f"cuda: {torch.cuda.get_device_name(0)}, {memory:.0f} GiB"})
    if torch.backends.mps.is_available():
        return found.model_copy(update={"detail": "mps: Apple GPU"})
    return found.model_copy(update={"detail": f"cpu: {torch.get_num_threads()} threads (no GPU found, none needed)"})


def packages() -> Iterator[Finding]:
    """Every dependency with its version, and each extra that is not wholly installed."""
    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        detail = "the package is not installed, only its folder is on the path"
        yield Finding(
            name=DISTRIBUTION,
            state=State.MISSING,
            detail=detail,
            needed_for="everything",
            required=True,
            fix="pip install -e .",
        )
        return
    extras = importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    requirements = [Requirement(line) for line in lines]
    for requirement in requirements:
        if _applies(requirement):
            yield _package(requirement, "everything", required=True, fix="pip install -e .")
    for extra in extras:
        mine = [
            requirement for requirement in requirements if not _applies(requirement) and _applies(requirement, extra)
        ]
        fix = f'pip install -e ".[{extra}]"'
        yield from (_package(requirement, f"extra {extra}", required=False, fix=fix) for requirement in mine)


def weights() -> Iterator[Finding]:
    """The embedded model's shipped parts, and its assembled folder in the cache."""
    from mis_lib.models.load import shipped_variants
    from mis_lib.models.mini import mini_folder

    found = shipped_variants()
    for name in VARIANTS:
        state = State.OK if name in found else State.MISSING
        detail = str(found.get(name) or "the base model itself") if name in found else "not in the installation"
        yield Finding(
            name=f"variant {name}",
            state=state,
            detail=detail,
            needed_for="app, compare, report",
            fix="" if name in found else f"reinstall the package, or mis build --train {name}",
        )
    try:
        folder = mini_folder()
    except ModelError as error:
        yield Finding(
            name="model mini",
            state=State.MISSING,
            detail=str(error),
            needed_for="app, compare, report",
            required=True,
            fix="reinstall the package",
        )
        return
    needed = "app, compare, report (made on first use)"
    if not folder.exists():
        yield _made_on_first_use("model mini", cache_dir(), needed, "mis build")
    elif not is_intact(folder):
        yield Finding(
            name="model mini",
            state=State.DAMAGED,
            detail=f"{folder}: a file differs from its hash",
            needed_for=needed,
            fix="mis build",
        )
    else:
        yield Finding(name="model mini", state=State.OK, detail=str(folder), needed_for=needed)


def data() -> Iterator[Finding]:
    """The drawn data set in the cache."""
    from mis_lib.construct.pipeline import mini_data_folder

    folder = mini_data_folder()
    needed = "examples of the app, report (made on first use)"
    if folder.exists():
        yield Finding(name="data MIS-Mini", state=State.OK, detail=str(folder), needed_for=needed)
    else:
        yield _made_on_first_use("data MIS-Mini", folder.parent, needed, "mis construct")


def browser() -> Finding:
    """A browser for the tests that drive one."""
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    found = Finding(name="browser", state=State.OK, detail=path or "", needed_for="browser tests")
    if path:
        return found
    return found.model_copy(
        update={"state": State.MISSING, "detail": f"none of {', '.join(BROWSERS)}", "fix": "apt-get install chromium"}
    )


def _applies(requirement: Requirement, extra: str = "") -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _package(requirement: Requirement, needed_for: str, *, required: bool, fix: str) -> Finding:
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        state, detail = State.MISSING, f"not installed; wanted {requirement.specifier}"
    else:
        fits = requirement.specifier.contains(version, prereleases=True)
        state, detail = (State.OK, version) if fits else (State.DAMAGED, f"{version}; wanted {requirement.specifier}")
    return Finding(
        name=requirement.name,
        state=state,
        detail=detail,
        needed_for=needed_for,
        required=required,
        fix="" if state is State.OK else fix,
    )


def _made_on_first_use(name: str, cache: Path, needed_for: str, command: str) -> Finding:
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    enough = free >= BUILD_BYTES
    detail = f"will be made in {cache} ({free / 1e9:.0f} GB free)"
    if not enough:
        detail = f"cannot be made in {cache}: {free / 1e9:.1f} GB free, {BUILD_BYTES / 1e9:.0f} GB needed"
    return Finding(
        name=name,
        state=State.MISSING,
        detail=detail,
        needed_for=needed_for,
        required=not enough,
        fix=command if enough else "free some disk, or set MIS_CACHE to another folder",
    )


def _processor() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if not hasattr(os, "sysconf"):
        return f"{cores} cores"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cores} cores, {memory:.0f} GiB memory"

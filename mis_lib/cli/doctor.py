"""``mis doctor``: what is installed, the device, weights and data, and what is missing for which purpose.

It only reads, and reports what is missing instead of failing. A finding is *required* if the app or the command line
cannot work without it; weights and data that are made on first use are not.
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
from mis_lib.cache import is_intact
from mis_lib.errors import ModelError
from mis_lib.models.packages import broken_package
from mis_lib.schema import Record

DISTRIBUTION = "mis-workbench"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BUILD_BYTES = 1_000_000_000  # the assembled model and the wheel it is made from; the drawn data need less


class State(StrEnum):
    """How a thing that was looked for was found."""

    OK = "ok"
    MISSING = "missing"
    DAMAGED = "damaged"


class Finding(Record):
    """One thing looked for: what was found, what it is needed for, and the command that fixes it."""

    name: str
    state: State
    detail: str
    needed_for: str
    required: bool = False
    fix: str = ""
    package: bool = False


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
    findings = [*machine(), *packages(), *weights(), data(), browser()]
    if broken := broken_package():
        fault = _bad(
            broken.name, broken.found, "everything", fix=broken.fix, required=True, state=State.DAMAGED
        ).model_copy(update={"package": True})
        findings = [fault, *(finding for finding in findings if finding.name != broken.name)]
    return Diagnosis(version=__version__, findings=tuple(findings))


def machine() -> Iterator[Finding]:
    """Python, processor, memory, accelerator."""
    yield _good("Python", f"{platform.python_version()}, {platform.system()} {platform.machine()}", "everything")
    yield _good("processor", _processor(), "everything")
    yield device()


def device() -> Finding:
    """The device that torch would compute on."""
    needed = "generation, training"
    try:
        import torch
    except ImportError as error:
        return _bad("device", f"torch cannot be imported: {error}", needed, fix="pip install -e .", required=True)
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return _good("device", f"cuda: {torch.cuda.get_device_name(0)}, {memory:.0f} GiB", needed)
    if torch.backends.mps.is_available():
        return _good("device", "mps: Apple GPU", needed)
    threads = torch.get_num_threads()
    return _good("device", f"cpu, {threads} thread{'s' * (threads != 1)} (no GPU found, none needed)", needed)


def packages() -> Iterator[Finding]:
    """Every dependency with its version, and those of the extras."""
    try:
        requirements = [Requirement(line) for line in importlib.metadata.requires(DISTRIBUTION) or []]
    except importlib.metadata.PackageNotFoundError:
        detail = "not installed; only its folder is on Python's path"
        yield _bad(DISTRIBUTION, detail, "everything", fix="pip install -e .", required=True)
        return
    core = [requirement for requirement in requirements if _applies(requirement)]
    yield from (_package(requirement, "everything", fix="pip install -e .", required=True) for requirement in core)
    for extra in importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []:
        fix = f'pip install -e ".[{extra}]"'
        added = [
            requirement for requirement in requirements if requirement not in core and _applies(requirement, extra)
        ]
        yield from (_package(requirement, f"extra {extra}", fix=fix) for requirement in added)


def weights() -> Iterator[Finding]:
    """The shipped variants, and the assembled model in the cache."""
    from mis_lib.models.adapters import BASE, SHIPPED, shipped_variants

    shipped = shipped_variants()
    for name in (BASE, *SHIPPED):
        if name in shipped:
            yield _good(f"variant {name}", str(shipped[name] or "the model itself"), "app, compare, report")
        else:
            again = "mis build --train base" if name == BASE else f"mis train --config configs/mini-{name}.yaml"
            fix = f"reinstall the package, or {again}"
            yield _bad(f"variant {name}", "not in the installation", "app, compare, report", fix=fix)
    yield mini()


def mini() -> Finding:
    """The assembled model in the cache."""
    from mis_lib.models.mini.assemble import mini_folder

    needed = "app, compare, report"
    try:
        folder = mini_folder()
    except ModelError as error:
        return _bad("model mini", str(error), needed, fix="reinstall the package", required=True)
    return _cached("model mini", folder, needed, fix="mis build")


def data() -> Finding:
    """The drawn data set in the cache."""
    from mis_lib.construct.mis_mini import mini_data_folder

    return _cached("data MIS-Mini", mini_data_folder(), "report, examples in the app", fix="mis app, or mis report")


def browser() -> Finding:
    """A browser for the tests that drive one."""
    path = find_browser()
    if path:
        return _good("browser", str(path), "browser tests")
    return _bad("browser", f"none of {', '.join(BROWSERS)}", "browser tests", fix="apt-get install chromium")


def find_browser() -> Path | None:
    """Chromium or a relative of it, as installed on this machine."""
    return next((Path(path) for name in BROWSERS if (path := shutil.which(name))), None)


def _good(name: str, detail: str, needed_for: str) -> Finding:
    return Finding(name=name, state=State.OK, detail=detail, needed_for=needed_for)


def _bad(
    name: str, detail: str, needed_for: str, *, fix: str, required: bool = False, state: State = State.MISSING
) -> Finding:
    return Finding(name=name, state=state, detail=detail, needed_for=needed_for, required=required, fix=fix)


def _package(requirement: Requirement, needed_for: str, *, fix: str, required: bool = False) -> Finding:
    name, wanted = requirement.name, requirement.specifier
    found = Finding(name=name, state=State.OK, detail="", needed_for=needed_for, required=required, package=True)
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        missing = {"state": State.MISSING, "detail": f"not installed, wanted {wanted}", "fix": fix}
        return found.model_copy(update=missing)
    if wanted.contains(version, prereleases=True):
        return found.model_copy(update={"detail": version})
    return found.model_copy(update={"state": State.DAMAGED, "detail": f"{version}, wanted {wanted}", "fix": fix})


def _applies(requirement: Requirement, extra: str = "") -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _cached(name: str, folder: Path, needed_for: str, *, fix: str) -> Finding:
    """A folder that is made on first use; required only where it cannot be made for want of disk."""
    if is_intact(folder):
        return _good(name, str(folder), needed_for)
    if folder.exists():
        detail = f"{folder}: a file is missing or differs from its hash; made again on next use"
        return _bad(name, detail, needed_for, fix=fix, state=State.DAMAGED)
    standing = next(parent for parent in folder.absolute().parents if parent.exists())
    free = shutil.disk_usage(standing).free
    if free >= BUILD_BYTES:
        return _bad(name, f"not made yet; made on first use in {folder.parent}", needed_for, fix=fix)
    detail = f"not made yet, and {folder.parent} has {free / 1e9:.1f} GB free of {BUILD_BYTES / 1e9:.0f} GB needed"
    return _bad(name, detail, needed_for, fix="free some disk, or set MIS_CACHE to another folder", required=True)


def _processor() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if not hasattr(os, "sysconf"):
        return f"{cores} cores"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cores} cores, {memory:.0f} GiB memory"

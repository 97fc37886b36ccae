"""``mis train``: from a settings file to an adapter in a run folder, resumable at every step.

    run = train(load_settings(TrainSettings, Path("configs/mini-mirage.yaml")))      # runs/mini-mirage/v1

The same call goes on where an interrupted run stopped, and returns at once where it is finished. A method is a kind of settings and the
function that trains it; the ``method`` of a settings file decides which.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mis_lib import console
from mis_lib.commands.train_card import write_card
from mis_lib.commands.train_evaluation import evaluator
from mis_lib.errors import SettingsError, TrainingError
from mis_lib.recipes.generate import mini_data
from mis_lib.recipes.progress import bar
from mis_lib.results.train_runs import TrainRun, open_train_run
from mis_lib.settings import load_settings
from mis_lib.store.provenance import digest_of
from mis_lib.text.segments import segment
from mis_lib.train.distributed import main_first
from mis_lib.train.preference_settings import DpoSettings, RaftSettings
from mis_lib.train.settings import TrainSettings, recipe_of

if TYPE_CHECKING:
    from mis_lib.train.encode import Place

MIXTURE = "data"
SHOWN = ("asr", "over_refusal", "named")

Line = dict[str, Any]
Listener = Callable[[Line], None]


class Method(NamedTuple):
    """One way to train: its settings, and the function that trains by them and returns the run's folder."""

    settings: type[TrainSettings]
    train: Callable[..., Path]


class Interrupted(TrainingError):
    """A run was asked to end, has saved where it was, and can be gone on with."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def read_train_settings(config: Path | None, overrides: Sequence[str] = ()) -> TrainSettings:
    """The settings of a file and ``key=value`` pairs, of the kind that their ``method`` names.

    Raises:
        SettingsError: the method, a setting, the mixture or an option of it is unknown, or a value does not fit.
    """
    named = [text.partition("=")[2].strip() for text in overrides if text.partition("=")[0].strip() == "method"]
    name = named[-1] if named else _method_in(config)
    if name not in METHODS:
        raise SettingsError(f"method: unknown {name!r}; known: {', '.join(METHODS)}")
    settings = load_settings(METHODS[name].settings, config, overrides=overrides)
    if settings.mixture is not None:
        recipe_of(settings)  # here, and not in the run that is begun with them
    return settings


def train_by(settings: TrainSettings, on_line: Listener | None = None) -> Path:
    """Train by the settings' own method; returns the run's folder."""
    return METHODS[settings.method].train(settings, on_line)


def train(settings: TrainSettings, on_line: Listener | None = None) -> Path:
    """Fine-tune on answers (SFT); returns the folder of the finished run.

    Args:
        settings: resolved.
        on_line: told every line of ``train_log.jsonl`` as it is written.

    Raises:
        Interrupted: the run was asked to end and has saved a checkpoint.
        MisError: something is refused, missing or went wrong; says what, where and how to put it right.
    """
    checkpoint, data = base_of(settings), settings.data or mini_data()
    digests = {"base": _digest("model", checkpoint), "data": _digest("data", data)} | (
        {"start_from": _digest("start_from", settings.start_from)} if settings.start_from else {}
    )
    with ExitStack() as held:
        with main_first(settings.device) as is_main:
            say = console.say if is_main else _silent
            run = open_shared(settings, digests, held, is_main=is_main)
            if run.result is not None:
                return run.folder
            from mis_lib.train.dataset import places_of  # torch and transformers take seconds to import

            places = places_of(settings, data, run.folder / MIXTURE, say)
        return _train(settings, checkpoint, places, run, on_line if is_main else None, is_main=is_main)


def _train(
    settings: TrainSettings,
    checkpoint: Path | str,
    places: Sequence["Place"],
    run: TrainRun,
    on_line: Listener | None,
    *,
    is_main: bool,
) -> Path:
    from mis_lib.train.run import CHECKPOINTS
    from mis_lib.train.run import run as train_engine

    with _shown(disable=not is_main) as show:
        outcome = train_engine(
            settings,
            checkpoint,
            places,
            run.folder,
            segmenter=segment,
            evaluate=evaluator(settings.evaluation) if settings.evaluation.every else None,
            listeners=(show, *([on_line] if on_line else [])),
            progress=console.say if is_main else _silent,
        )
    if not outcome.finished:
        raise Interrupted(
            f"{run.folder}: stopped after step {outcome.step:,} of {outcome.steps:,} and saved; the same command goes on from there",
            128 + (outcome.signal or 1),
        )
    if is_main:
        write_card(run, settings, outcome.rows)
        run.finish(outcome.model_dump(mode="json"))
        shutil.rmtree(run.folder / CHECKPOINTS, ignore_errors=True)
    return run.folder


def open_shared(settings: TrainSettings, digests: dict[str, str], held: ExitStack, *, is_main: bool) -> TrainRun:
    """The run that all processes of a training share; unless it is finished, the main one holds it until ``held`` closes.

    Within ``main_first``: the others find what the main process has opened.

    Raises:
        SettingsError: another training holds it, or its name cannot be a folder's.
    """
    run = open_train_run(
        settings.runs,
        settings.name,
        settings,
        digests,
        settings.device or "auto",
        resume=settings.resume or not is_main,
    )
    if is_main and run.result is not None:
        console.say(f"{run.folder} is finished; resume: false trains anew")
    elif is_main:
        held.enter_context(run.held())
    return run


def _silent(message: str) -> None:
    """What processes beside the main one say."""


def base_of(settings: TrainSettings) -> Path | str:
    """The checkpoint to train: folder, hub id, or the embedded model (built if it is missing).

    Raises:
        ModelError: it is not there.
    """
    if settings.model == "mini":
        from mis_lib.models.mini.assemble import ensure_mini

        return ensure_mini(console.say)
    folder = Path(settings.model)
    return folder if folder.exists() or len(folder.parts) != 2 else settings.model


@contextmanager
def _shown(*, disable: bool = False) -> Iterator[Listener]:
    """A progress bar on standard error; the block gets the function that is told the log lines."""
    with bar("training", shown=not disable) as progress:
        task = progress.add_task("", total=None)

        def show(line: Line) -> None:
            if "eval" in line:
                told = ", ".join(f"{name} {line['eval'][name]['value']}" for name in SHOWN if name in line["eval"])
                progress.console.print(f"step {line['step']:,}: {told}", style="dim", highlight=False)
                return
            text = f"loss {line['loss']:.4f}, {line['samples_per_second']:.1f} rows/s, {line['memory_gb']:.1f} GB"
            progress.update(task, completed=line["step"], total=line["steps"], description=text)

        yield show


def _method_in(config: Path | None) -> str:
    """The method that a settings file names."""
    if config is None:
        return "sft"
    import yaml

    try:
        values = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):  # said by load_settings
        return "sft"
    return str(values.get("method", "sft")) if isinstance(values, dict) else "sft"


def _digest(name: str, path: Path | str) -> str:
    """Digest of the folder or file that a setting names; of a hub id, the id."""
    if isinstance(path, str):
        return path
    if not path.exists():
        raise SettingsError(
            f"{name}: expected a file or folder at {path}, found none; the head of a configuration says what must be run before it, "
            f"or name another one (--set {name}=...)"
        )
    return digest_of(path)


def _dpo(settings: DpoSettings, on_line: Listener | None = None) -> Path:
    from mis_lib.commands.train_dpo import train_dpo

    return train_dpo(settings, on_line)


def _raft(settings: RaftSettings, on_line: Listener | None = None) -> Path:
    from mis_lib.recipes.raft import train_raft

    return train_raft(settings, lambda plain: train(plain, on_line))


METHODS: dict[str, Method] = {
    "sft": Method(TrainSettings, train),
    "dpo": Method(DpoSettings, _dpo),
    "raft": Method(RaftSettings, _raft),
}

"""``mis train``: from a settings file to an adapter in a run folder, resumable at every step.

    run = train(load_settings(TrainSettings, Path("configs/mini-mirage.yaml")))      # runs/mini-mirage/v1

The same call resumes a run that was interrupted, and returns at once where it is finished. A method is a kind of
settings and the function that trains it; the ``method`` of a settings file decides which.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mis_lib.errors import SettingsError, TrainingError
from mis_lib.models.packages import check_quantization
from mis_lib.recipes.checkpoints import local_checkpoint
from mis_lib.recipes.judge import CACHE, check_judge, verdicts_of
from mis_lib.recipes.progress import bar, say
from mis_lib.recipes.samples import mini_data, read_place
from mis_lib.results.metrics import rates
from mis_lib.results.runs import digest_of
from mis_lib.results.train_runs import TrainRun, open_train_run
from mis_lib.schema import Response, Sample
from mis_lib.settings import GenerationSettings, load_settings, read_settings_file
from mis_lib.text.segments import segment
from mis_lib.train.distributed import main_first
from mis_lib.train.settings import (
    DpoSettings,
    EvaluationSettings,
    GrpoSettings,
    KtoSettings,
    NpoSettings,
    RaftSettings,
    RmuSettings,
    TrainSettings,
    recipe_of,
)
from mis_lib.train.trackers import check_trackers

if TYPE_CHECKING:
    from mis_lib.train.encode import Example

MIXTURE = "data"
CARD = "README.md"
SHOWN = ("asr", "over_refusal", "named")

Line = dict[str, Any]
Listener = Callable[[Line], None]


class Method(NamedTuple):
    """One way to train: its settings, and the function that trains with them and returns the run's folder."""

    settings: type[TrainSettings]
    train: Callable[..., Path]


class Interrupted(TrainingError):
    """A run was asked to end; it has saved its state and can be resumed."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status

    @classmethod
    def after(cls, folder: Path, step: int, steps: int, signal: int | None) -> "Interrupted":
        """What is said of a run that ended early, and the exit status of its signal."""
        text = f"{folder}: stopped after step {step:,} of {steps:,} and saved; the same command goes on from there"
        return cls(text, 128 + (signal or 1))


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
        recipe_of(settings)  # refused here, before a run is opened
    return settings


def train_by(settings: TrainSettings, on_line: Listener | None = None) -> Path:
    """Train with the method of the settings; returns the run's folder.

    Raises:
        MissingPackageError: a tracker's package is not there.
        MisError: as the method's function.
    """
    check_trackers(settings.report_to)
    return METHODS[settings.method].train(settings, on_line)


def train(settings: TrainSettings, on_line: Listener | None = None) -> Path:
    """Fine-tune on answers (SFT); returns the folder of the finished run.

    Args:
        settings: resolved.
        on_line: called with every line of ``train_log.jsonl`` as it is written.

    Raises:
        SettingsError: the settings are of another method, which ``train_by`` trains.
        Interrupted: the run was asked to end and has saved a checkpoint.
        MisError: something is refused or missing, or training failed; the message says what, where and how to fix it.
    """
    if settings.method != "sft":
        raise SettingsError(f"method: expected sft, found {settings.method!r}; train_by trains by any method")
    checkpoint, data = base_of(settings), settings.data or mini_data()
    digests = {"base": _digest("model", checkpoint), "data": _digest("data", data)} | (
        {"start_from": _digest("start_from", settings.start_from)} if settings.start_from else {}
    )
    with ExitStack() as held:
        with main_first(settings.device) as is_main:
            run = open_shared(settings, digests, held, is_main=is_main)
            if run.result is not None:
                return run.folder
            from mis_lib.train.dataset import examples_of  # torch and transformers take seconds to import

            examples = examples_of(settings, data, run.folder / MIXTURE, say if is_main else _silent)
        return _train(settings, checkpoint, examples, run, on_line if is_main else None, is_main=is_main)


def _train(
    settings: TrainSettings,
    checkpoint: Path | str,
    examples: Sequence["Example"],
    run: TrainRun,
    on_line: Listener | None,
    *,
    is_main: bool,
) -> Path:
    from mis_lib.train.run import CHECKPOINTS
    from mis_lib.train.run import run as train_engine

    with _reported() if is_main else nullcontext() as report:
        outcome = train_engine(
            settings,
            checkpoint,
            examples,
            run.folder,
            segmenter=segment,
            evaluate=evaluator(settings.evaluation, run.folder.parent / CACHE) if settings.evaluation.every else None,
            listeners=tuple(listener for listener in (report, on_line) if listener is not None),
            progress=say if is_main else _silent,
        )
    if not outcome.finished:
        raise Interrupted.after(run.folder, outcome.step, outcome.steps, outcome.signal)
    if is_main:
        write_card(run, settings, outcome.rows)
        run.finish(outcome.model_dump(mode="json"))
        shutil.rmtree(run.folder / CHECKPOINTS, ignore_errors=True)
    return run.folder


def open_shared(settings: TrainSettings, digests: dict[str, str], held: ExitStack, *, is_main: bool) -> TrainRun:
    """The run that all processes of a training share; the main one locks an unfinished run until ``held`` closes.

    To be called within ``main_first``: the others open what the main process has made.

    Raises:
        MissingPackageError: the settings need a package that is not there.
        SettingsError: another process trains it, or its name is no folder name.
    """
    check_quantization(settings.quantization)
    run = open_train_run(
        settings.runs,
        settings.name,
        settings,
        digests,
        settings.device or "auto",
        resume=settings.resume or not is_main,
    )
    if is_main and run.result is not None:
        say(f"{run.folder} is finished; resume: false trains again")
    elif is_main:
        held.enter_context(run.held())
    return run


def base_of(settings: TrainSettings) -> Path | str:
    """The checkpoint to train: folder, hub id, or the embedded model (built if it is missing).

    Raises:
        ModelError: it is missing.
    """
    folder = local_checkpoint(None if settings.model == "mini" else settings.model)
    named = settings.model == "mini" or Path(settings.model).exists()
    return folder if named else settings.model  # an adapter names its base by the id, not by a folder of this machine


def write_card(run: TrainRun, settings: TrainSettings, rows: int) -> None:
    """The model card of trained weights: what they are, how they were made, and what is not promised."""
    from mis_lib.train.run import ADAPTER, MODEL

    kind = ADAPTER if settings.tuning == "lora" else MODEL
    what = "LoRA adapter" if settings.tuning == "lora" else "fully fine-tuned checkpoint"
    data = settings.mixture or settings.data or "MIS-Mini"
    base = f"`{settings.model}`" + (f" (its weights in {settings.quantization})" if settings.quantization else "")
    text = (
        f"# {settings.name}\n\n"
        f"{what.capitalize()} of {base}, trained with `mis train` ({settings.method}) on {rows:,} rows of "
        f"{data}, seed {settings.seed}.\n\n"
        "Settings: `config.yaml`, log: `train_log.jsonl`, versions and digests: `environment.json`, all in the run's "
        "folder. No safety is promised: measure attack success and over-refusal together (`mis report`).\n"
    )
    (run.folder / kind / CARD).write_text(text, encoding="utf-8")


def evaluator(settings: EvaluationSettings, cache: Path) -> Callable[[Any, Any], Mapping[str, Any]]:
    """A function that measures a model in training, by the judge of the settings.

    Args:
        settings: what is asked, and who rules.
        cache: folder that keeps the replies of a judge's model.

    Raises:
        DataError: a split is missing, or the judge can rule on none of its rows.
        MisError: the judge cannot be made.
    """
    samples, folder = read_place(settings.data or mini_data(), settings.splits, settings.limit)
    check_judge(settings.judge, samples, "evaluation.judge")
    generation = GenerationSettings(max_new_tokens=settings.max_new_tokens)

    def evaluate(model: Any, processor: Any) -> Mapping[str, Any]:
        responses = _answers(model, processor, samples, folder, generation, settings.batch_size)
        verdicts = verdicts_of(settings.judge, samples, responses, folder, cache)
        return {name: rate.model_dump() for name, rate in rates(verdicts, samples, responses).items()}

    return evaluate


def _answers(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    folder: Path,
    generation: GenerationSettings,
    batch_size: int,
) -> list[Response]:
    from mis_lib.generate.batch import answer_active
    from mis_lib.models.load import LoadedModel

    loaded, found = LoadedModel(model, processor), []
    ordered = sorted(samples, key=lambda sample: (-len(sample.images), len(sample.question), sample.id))
    for start in range(0, len(ordered), batch_size):
        found += answer_active(ordered[start : start + batch_size], folder, loaded, generation, "trained")
    return found


@contextmanager
def _reported() -> Iterator[Listener]:
    """A function that reports log lines on a progress bar."""
    with bar("training") as advance:

        def report(line: Line) -> None:
            if "eval" in line:
                rates = ", ".join(f"{name} {line['eval'][name]['value']}" for name in SHOWN if name in line["eval"])
                say(f"step {line['step']:,}: {rates}")
                return
            text = f"loss {line['loss']:.4f}, {line['samples_per_second']:.1f} rows/s, {line['memory_gb']:.1f} GB"
            advance(text, line["step"], line["steps"])

        yield report


def _silent(message: str) -> None:
    """Progress of processes that are not the main one is not shown."""


def _method_in(config: Path | None) -> str:
    """The method that a settings file names."""
    if config is None:
        return "sft"
    return str(read_settings_file(config).get("method", "sft"))


def _digest(name: str, path: Path | str) -> str:
    """Digest of the folder or file that a setting names; of a hub id, the id."""
    if isinstance(path, str):
        return path
    if not path.exists():
        raise SettingsError(
            f"{name}: expected a file or folder at {path}, found none; the head of a configuration says what must be "
            f"run before it, or name another one (--set {name}=...)"
        )
    return digest_of(path)


def _dpo(settings: DpoSettings, on_line: Listener | None = None) -> Path:
    from mis_lib.recipes.dpo import train_dpo

    return train_dpo(settings, on_line)


def _raft(settings: RaftSettings, on_line: Listener | None = None) -> Path:
    from mis_lib.recipes.raft import train_raft

    return train_raft(settings, lambda plain: train(plain, on_line))


def _kto(settings: KtoSettings, on_line: Listener | None = None) -> Path:
    from mis_lib.recipes.kto import train_kto

    return train_kto(settings, on_line)


def _safe_grpo(settings: GrpoSettings, on_line: Listener | None = None) -> Path:
    from mis_lib.recipes.grpo import train_grpo

    return train_grpo(settings, on_line)


def _unlearn(settings: NpoSettings | RmuSettings, on_line: Listener | None = None) -> Path:
    from mis_lib.recipes.unlearn import train_unlearn

    return train_unlearn(settings, on_line)


METHODS: dict[str, Method] = {
    "sft": Method(TrainSettings, train),
    "dpo": Method(DpoSettings, _dpo),
    "raft": Method(RaftSettings, _raft),
    "kto": Method(KtoSettings, _kto),
    "safe_grpo": Method(GrpoSettings, _safe_grpo),
    "npo": Method(NpoSettings, _unlearn),
    "rmu": Method(RmuSettings, _unlearn),
}

"""Model and examples, made once in the background, so that the page is there before they are.

``Host`` holds both (``background``), the lock in front of the model, and the stop event of what each session has
running. Nothing here imports torch until the model's thread does.
"""

import gc
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mis_lib.errors import ModelError
from mis_lib.generate.columns import MultiEngine, StreamEngine
from mis_lib.generate.served import Served, ServedEngine, check_names
from mis_lib.models.adapters import BASE, Checkpoint, checkpoint_of_adapter, choose_checkpoints
from mis_lib.models.packages import naming_a_broken_package
from mis_lib.recipes.live import Answerers
from mis_lib.recipes.settings import GenerateSettings
from mis_lib.settings import IMAGE_PIXELS, Quantization
from workbench.background import Background, Progress
from workbench.examples import Catalogue

SERVED_AT_ONCE = 4  # comparisons, each of up to four columns: what ``mis generate`` asks a server at a time


@dataclass
class Host:
    """Everything the handlers share: the model, the examples, the model's lock, and each session's stop event."""

    model: Background[StreamEngine]
    data: Background[Catalogue]
    checkpoint: str = "MIS-Mini"
    variants: tuple[str, ...] = ()  # names known before the model is loaded, for the first page
    runs: Path = Path("runs")  # folder of the run folders that the tabs show
    data_name: str = "MIS-Mini"  # what the examples' data set is called
    data_folder: Path | None = None  # of the examples' data set; None for MIS-Mini
    data_folders: tuple[Path, ...] = ()  # further data sets that this app was given to show
    adapters: dict[str, Path | None] = field(default_factory=dict)  # what the model is loaded with
    parts: Sequence[Checkpoint] = ()  # the checkpoints here, with the adapters that the app was started with
    settings: Mapping[str, str] = field(default_factory=dict)  # how they are loaded, as settings of a command
    load: Callable[[Mapping[str, Path | None], Progress], StreamEngine] | None = None
    served: Mapping[str, Served] = field(default_factory=dict)  # where served variants are asked
    answerers: Answerers = field(default_factory=Answerers)  # who answers, for runs that keep the answers
    recognise: Callable[[Mapping[str, Path | None]], Answerers] | None = None
    remarks: list[str] = field(default_factory=list)  # adapters of other models, and models that take turns, in words
    at_once: int = 1  # comparisons under way: one model answers one after the other, servers take several
    stops: dict[str, threading.Event] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)  # sessions that gave up their place before their turn
    lock: threading.Semaphore = field(init=False)
    _loading: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.lock = threading.Semaphore(self.at_once)

    def start(self) -> None:
        """Begin to make both values."""
        self.data.start()
        self.model.start()

    def stop(self, *, patience: float = 10.0) -> bool:
        """Give up what is being made; wait at most ``patience`` seconds for each; whether both have ended."""
        made = self.data, self.model
        for one in made:
            one.give_up()
        return all(one.ended(patience=patience) for one in made)

    def add_variant(self, name: str, folder: Path) -> None:
        """Load the model again with one adapter more; the model that is there stays until that has worked.

        Raises:
            ModelError: the adapter does not fit, or this app cannot load others.
        """
        if name in self.known_variants:
            return
        if self.load is None:
            raise ModelError(
                f"{name}: this app's model takes no further adapters; start it with --adapters {name}={folder}"
            )
        with self._loading:
            wanted, load = {**self.adapters, name: folder}, self.load
            made = Background(lambda progress: load(wanted, progress), what="Model")
            made.start()
            for _ in made.wait(threading.Event()):
                pass
            if made.value is None:
                raise ModelError(f"{name} could not be loaded together with the others: {made.status.message}")
            self.model, self.adapters = made, wanted
            self.answerers = self.recognise(wanted) if self.recognise else self.answerers
            gc.collect()  # models hold references to themselves

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The checkpoints here with all adapters that are loaded by now."""
        return _with_added(self.parts, self.adapters)

    @property
    def title(self) -> str:
        """What answers once it is ready, for the page's header."""
        hosts = ", ".join(dict.fromkeys(one.host for one in self.served.values()))
        if not self.checkpoint:
            return f"Served by {hosts}"
        return f"Model ready: {self.checkpoint}" + (f"; served by {hosts}" if hosts else "")

    @property
    def known_variants(self) -> tuple[str, ...]:
        """The loaded model's variants, or the ones promised before it is loaded."""
        return self.model.value.variants if self.model.value is not None else self.variants


def make_host(
    checkpoint: Path | Mapping[str, Path] | None,
    adapters: Sequence[tuple[str, Path]] | None,
    data: Path | None,
    *,
    runs: Path = Path("runs"),
    datasets: Sequence[Path] = (),
    served: Mapping[str, Served] | None = None,
    device: str = "auto",
    dtype: str | None = None,
    quantization: Quantization | None = None,
    image_pixels: int = IMAGE_PIXELS,
) -> Host:
    """A host for the command line's choices; nothing is loaded before ``start``.

    Without a checkpoint it is the embedded model, without adapters the ones shipped with it (or none for another
    checkpoint); several checkpoints are named. Beside served variants only a checkpoint or adapters that are named are
    loaded ("mini" names the embedded model); served ones come first.

    Raises:
        SettingsError: two variants have the same name, or it is not known to which checkpoint an adapter belongs.
    """
    served, local = served or {}, bool(checkpoint or adapters or not served)
    parts = choose_checkpoints(checkpoint, adapters) if local else []
    chosen = {name: folder for part in parts for name, folder in part.variants.items()}
    check_names(served, tuple(chosen))
    remarks: list[str] = []
    how = {"device": device, "dtype": dtype, "quantization": quantization}

    def load(wanted: Mapping[str, Path | None], progress: Progress) -> StreamEngine:
        if not local:
            return ServedEngine(served, image_pixels=image_pixels)
        now = _with_added(parts, wanted)
        engine = load_engine(now, progress, device, dtype, quantization)
        from mis_lib.generate.group import CheckpointGroup  # torch is loaded by now

        remarks[:] = [words for part in now for words in strangers(part)]
        if isinstance(engine, CheckpointGroup) and engine.in_turn:
            remarks.append(f"These models do not fit into memory together: {engine.announcement}")
        return MultiEngine(ServedEngine(served, image_pixels=image_pixels), engine) if served else engine

    def recognise(wanted: Mapping[str, Path | None]) -> Answerers:
        how = {"device": device, "dtype": dtype or "auto", "quantization": quantization}
        asked = _with_added(parts, wanted) if local else []
        return Answerers(
            [
                GenerateSettings(
                    checkpoint=part.path, adapters=part.variants, variants=tuple(part.variants), runs=runs, **how
                )
                for part in asked
            ],
            served,
        )

    names = [next(iter(part.variants)) for part in parts] if len(parts) > 1 else [_title(part) for part in parts]
    return Host(
        Background(lambda progress: load(chosen, progress), what="Model"),
        Background(lambda progress: load_examples(data, progress), what="Examples"),
        checkpoint=", ".join(names),
        variants=(*served, *chosen),
        runs=runs,
        data_name="MIS-Mini" if data is None else data.name,
        data_folder=data,
        data_folders=tuple(datasets),
        adapters=chosen,
        parts=parts,
        settings={name: value for name, value in how.items() if value not in (None, "auto")},
        load=load if local else None,
        served=served,
        answerers=recognise(chosen),
        recognise=recognise,
        remarks=remarks,
        at_once=1 if local else SERVED_AT_ONCE,
    )


@naming_a_broken_package()
def load_engine(
    parts: Sequence[Checkpoint],
    progress: Progress,
    device: str = "auto",
    dtype: str | None = None,
    quantization: Quantization | None = None,
) -> StreamEngine:
    """Load one checkpoint with its adapters, or several as one engine, as many of them as memory allows.

    Raises:
        ModelError: a checkpoint or an adapter is missing or does not fit.
    """
    for name, path in [variant for part in parts for variant in part.variants.items()]:
        if path is not None and not path.exists():
            raise ModelError(
                f"adapter {name!r}: expected a PEFT folder or the file of a weight edit, found nothing at {path}; "
                f"correct --adapters {name}=PATH and start the app again"
            )
    progress("Loading the model libraries …")
    from mis_lib.generate.group import load_group  # here: torch and transformers take seconds to import
    from mis_lib.generate.stream import VariantEngine

    folders = [_folder(part.path, progress) for part in parts]
    if len(parts) == 1:
        progress("Loading the model …")
        one = folders[0], parts[0].variants
        return VariantEngine.load(*one, device=device, dtype=dtype, quantization=quantization)
    asked = [(folder, part.variants) for folder, part in zip(folders, parts, strict=True)]
    group = load_group(asked, device, dtype, quantization)
    group.load_what_fits(lambda words: progress(f"{words} Of {group.announcement}"))
    return group


def strangers(part: Checkpoint) -> list[str]:
    """A line on each adapter that was trained on another checkpoint than the one that it is loaded on."""
    from mis_lib.models.adapters import base_mismatch
    from mis_lib.models.mini.assemble import mini_folder

    here = part.path or mini_folder()
    return [words for name, folder in part.variants.items() if folder and (words := base_mismatch(name, folder, here))]


def _folder(checkpoint: Path | None, progress: Progress) -> Path:
    """The folder of a checkpoint, made or fetched if it is missing."""
    if checkpoint is None:
        from mis_lib.models.mini.assemble import ensure_mini

        return ensure_mini(progress=progress)
    from mis_lib.models.hub import checkpoint_folder

    def report(done: int, total: int) -> None:
        progress(f"Fetching {checkpoint} from the hub: {done / 1e9:.1f} of {total / 1e9:.1f} GB …")

    return checkpoint_folder(checkpoint, report)


def _with_added(parts: Sequence[Checkpoint], wanted: Mapping[str, Path | None]) -> list[Checkpoint]:
    """The checkpoints with the adapters among ``wanted`` that came later, each on the one that it was trained on."""
    named = {next(iter(part.variants)): part.path or Path(BASE) for part in parts}
    now = {name: Checkpoint(part.path, dict(part.variants)) for name, part in zip(named, parts, strict=True)}
    for name, folder in wanted.items():
        if folder is not None and not any(name in part.variants for part in parts):
            now[checkpoint_of_adapter(name, folder, named)].variants[name] = folder
    return list(now.values())


def _title(part: Checkpoint) -> str:
    return "MIS-Mini" if part.path is None else part.path.name


def load_examples(folder: Path | None, progress: Progress) -> Catalogue:
    """Read a data set folder; without one, MIS-Mini, drawn on first use."""
    if folder is None:
        from mis_lib.construct.mis_mini import ensure_mini_data

        folder = ensure_mini_data(progress=progress)
    progress("Reading the examples …")
    return Catalogue.read(folder)

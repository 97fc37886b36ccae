"""MIS-Mini: from the element table to a folder of data files and pictures, byte for byte the same for the same seed.

    OUT/train.jsonl easy.jsonl hard.jsonl real.jsonl general.jsonl everyday_train.jsonl everyday.jsonl  images/  summary.json  DATASHEET.md  manifest.json

Everything is made in a temporary folder beside OUT and appears in one rename: a killed build leaves nothing half made. ``real`` holds
the questions and pairs of easy and hard in a drawing style that is never trained on, as far as it draws them.
"""

import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mis_lib.cache import MANIFEST, write_manifest
from mis_lib.construct import everyday, general, sheet
from mis_lib.construct.drawings import ICONS, TRAINING_STYLES, style_credits
from mis_lib.construct.elements import ElementTable, load_elements
from mis_lib.construct.filters import Dropped, drop_leaks
from mis_lib.construct.gallery import Picture, Progress, draw_all
from mis_lib.construct.pairs import Scenario, place
from mis_lib.construct.splits import asks_by_split
from mis_lib.construct.twins import pictures, twin_samples
from mis_lib.errors import DataError
from mis_lib.files import write_records
from mis_lib.schema import Record, Sample

SUMMARY = "summary.json"


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
    general_items: int = general.ITEMS,
    everyday_items: int = everyday.ITEMS,
    icon_turns: int = 0,
    both_orders: bool = False,
) -> Summary:
    """Build MIS-Mini in ``out``.

    Args:
        out: folder to make; an earlier build there is replaced, anything else is left alone.
        seed: draws pictures, wordings and general data.
        elements: folder with CSV files of one's own, added to the built-in table.
        progress: told what is going on, in words.
        blocks: only these blocks of the table (all).
        general_items: how many non-safety items.
        everyday_items: how many everyday pairs to train on; a quarter as many are for testing.
        icon_turns: how often every training pair is asked in icons as well, which are harder to make out; a quarter of the general
            items then shows icons, too.
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
        raise unwritable(out, error) from error
    return summary


def plan(
    seed: int = 0,
    elements: Path | None = None,
    *,
    blocks: Collection[str] | None = None,
    general_items: int = general.ITEMS,
    everyday_items: int = everyday.ITEMS,
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
    }
    needed = {picture for rows in asks.values() for row in rows for picture in pictures(row, seed)}
    styles = (*TRAINING_STYLES, ICONS) if icon_turns else TRAINING_STYLES
    others = list(general.general_samples(seed, general_items, styles))
    files[general.SPLIT] = [sample for sample, _ in others]
    for split, items in ((everyday.TRAIN, everyday_items), (everyday.TEST, everyday_items // everyday.TESTED)):
        pairs = list(everyday.everyday_samples(split, table, seed, items))
        files[split] = [sample for sample, _ in pairs]
        others += pairs
    needed |= {picture for _, shown in others for picture in shown}
    rows = len(scenarios) + len(dropped)
    return Plan(seed, table.digest, rows, files, needed, dropped, untold, icon_turns, both_orders)


def unwritable(folder: Path, error: OSError) -> DataError:
    """What to say where the disk is full or cannot be written."""
    return DataError(f"building {folder} failed: {error}; about 100 MB of free, writable disk are needed there")


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
    text = sheet.sheet(
        planned.files,
        seed=planned.seed,
        table=planned.table,
        pictures=len(hashes),
        icon_turns=planned.icon_turns,
        both_orders=planned.both_orders,
    )
    (folder / sheet.NAME).write_text(text, encoding="utf-8")
    write_manifest(folder)
    return summary


def _chosen(table: ElementTable, blocks: Collection[str] | None) -> list[Scenario]:
    unknown = sorted(set(blocks or ()) - set(table.questions))
    if unknown:
        raise DataError(f"expected blocks among {', '.join(sorted(table.questions))}; found {', '.join(unknown)}")
    scenarios = place(table.elements)  # before choosing, so that ids do not depend on the choice
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

"""A data set as a task of another evaluator, which asks its models the questions; ``mis import`` reads their answers.

    vlmevalkit   OUT/NAME_openended.tsv   index, id, image, question, answer, category, l2-category, split, ...
    lmms_eval    OUT/NAME.yaml            task; NAME.jsonl its rows; lmms_eval_task.py its functions; images

Layouts: open-compass/VLMEvalKit, vlmeval/dataset/image_base.py (``ImageBaseDataset``) and vlmeval/smp/misc.py
(``toliststr``); EvolvingLMMs-Lab/lmms-eval, lmms_eval/api/task.py (``ConfigurableTask``) and lmms_eval/utils.py
(``load_yaml_config``, which finds rows and functions next to the YAML). VLMEvalKit asks a table of its own as multiple
choice unless its name has "openended" (vlmeval/dataset/__init__.py, ``DATASET_TYPE``). Both drop or change some rows
without a word: such rows are refused here. Neither scores safety.
"""

import base64
import csv
import io
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from PIL import Image, UnidentifiedImageError

from mis_lib.data import lmms_eval_task
from mis_lib.data.export import Export, copy_image, image_file, sayable
from mis_lib.data.formats import HISTORY, LATER, SYSTEM
from mis_lib.data.images import ORIENTATION
from mis_lib.errors import DataError
from mis_lib.files import load_image, write_atomic
from mis_lib.schema import Sample
from mis_lib.settings import ExportedImages, ExportForm

TASKS = (ExportForm.VLMEVALKIT, ExportForm.LMMS_EVAL)
FUNCTIONS = lmms_eval_task.__name__.rpartition(".")[2]
MAX_NEW_TOKENS = 1024
"""As ``mis generate`` allows, after MIS's own scripts."""


def export_task(
    samples: Sequence[Sample],
    folder: Path,
    out: Path,
    form: ExportForm,
    *,
    name: str,
    images: ExportedImages = ExportedImages.COPY,
) -> Export:
    """Write samples as a task; the file that its tool looks for appears last and in one step.

    Args:
        samples: what is asked.
        folder: what their images are relative to.
        out: folder to write to.
        form: one of ``TASKS``.
        name: of the task.
        images: copy them (VLMEvalKit: into the table, as base64), or write their absolute paths.

    Raises:
        DataError: there is no sample, one cannot be asked by that tool, or ``out`` cannot be written.
        ImageError: an image is not there or cannot be read.
    """
    if not samples:
        raise DataError(f"expected samples to export to {out}, found none")
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise DataError(
            f"expected a task's name of letters, digits, '.', '_' and '-', found {name!r}; rename the input"
        )
    for sample in samples:
        _check(sample)
    shown = list(dict.fromkeys(image for sample in samples for image in sample.images))
    write = _write_vlmevalkit if form is ExportForm.VLMEVALKIT else _write_lmms_eval
    try:
        file, usage = write(samples, shown, folder, out, name, keep=images is ExportedImages.KEEP)
    except OSError as error:
        raise DataError(f"{out}: expected to write there, found: {error.strerror}; name another folder") from error
    return Export(form=form, file=str(file), samples=len(samples), images=len(shown), usage=usage)


def _check(sample: Sample) -> None:
    """Refuse a row that these tools would ask otherwise than it is written, or not at all."""
    sayable(sample, "question", sample.question)
    known = {**(sample.model_extra or {}), HISTORY: sample.history}
    found = next((field for field in (HISTORY, LATER, SYSTEM) if known.get(field)), None)
    if found is not None:
        raise DataError(f"sample {sample.id}: expected one question, found {found}, which has no column; leave it out")
    if not sample.images:
        raise DataError(f"sample {sample.id}: expected images, found none: VLMEvalKit drops such rows; leave it out")


def _write_vlmevalkit(
    samples: Sequence[Sample], shown: Sequence[str], folder: Path, out: Path, name: str, *, keep: bool
) -> tuple[Path, str]:
    _refuse_what_pandas_changes(samples)
    file = out / f"{name}_openended.tsv"
    rows = (
        {"index": number, **_said(sample), **_table_images(sample, folder, keep=keep)}
        for number, sample in enumerate(samples)
    )
    write_atomic(file, _tsv(rows))
    at = file.resolve().parent
    return file, f"LMUData={at} PRED_FORMAT=tsv python run.py --data {file.stem} --model MODEL --mode infer"


def _said(sample: Sample) -> dict[str, Any]:
    """A row's texts; VLMEvalKit's ``category`` is the finer of its two."""
    return {
        "id": sample.id,
        "question": sample.question,
        "answer": sample.answer or "",
        "category": sample.sub_category or "",
        "l2-category": sample.category or "",
        "split": str(sample.split),
        "harmful": sample.harmful,
        "twin_id": sample.twin_id or "",
    }


def _table_images(sample: Sample, folder: Path, *, keep: bool) -> dict[str, str]:
    """The cell of a row's images: one as it is, several as a list in Python's notation (``toliststr``)."""
    paths = [image_file(folder, image) for image in sample.images]
    cells = [str(path.resolve()) for path in paths] if keep else [_base64(path) for path in paths]
    return {"image_path" if keep else "image": cells[0] if len(cells) == 1 else repr(cells)}


def _base64(path: Path) -> str:
    return base64.b64encode(_as_seen(path)).decode()


def _as_seen(path: Path) -> bytes:
    """The file, or a PNG of what models are shown here where VLMEvalKit would show another picture.

    It turns no image upright and puts transparency on black (``decode_base64_to_image``).
    """
    try:
        with Image.open(path) as image:
            plain = image.mode in ("RGB", "L") and not image.has_transparency_data
            if plain and image.getexif().get(ORIENTATION, 1) == 1:
                return path.read_bytes()
    except (OSError, UnidentifiedImageError):
        pass  # ``load_image`` names the fault
    made = io.BytesIO()
    load_image(path).save(made, "PNG")
    return made.getvalue()


def _tsv(rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """Lines of a table whose cells are exact, also those that a spreadsheet would run as formulas."""
    line = io.StringIO()
    writer = None
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(line, list(row), delimiter="\t", lineterminator="\n")
            writer.writeheader()
        writer.writerow(row)
        yield line.getvalue().encode()
        line.seek(0)
        line.truncate()


def _refuse_what_pandas_changes(samples: Sequence[Sample]) -> None:
    """VLMEvalKit reads tables with pandas, which takes the question "NA" for no text and "12" for a number."""
    asked = [sample.question for sample in samples]
    table = pd.DataFrame({"question": asked}).to_csv(sep="\t", index=False)
    read = pd.read_csv(io.StringIO(table), sep="\t")["question"].tolist()
    for sample, found in zip(samples, read, strict=True):
        if found != sample.question:
            raise DataError(
                f"sample {sample.id}: question {sample.question!r:.80}: expected a text, which VLMEvalKit reads as "
                f"{found!r:.80}; write the question in words"
            )


def _write_lmms_eval(
    samples: Sequence[Sample], shown: Sequence[str], folder: Path, out: Path, name: str, *, keep: bool
) -> tuple[Path, str]:
    for image in shown:
        image_file(folder, image) if keep else copy_image(folder, out, image)
    rows = ({**_said(sample), "images": sample.images} for sample in samples)
    write_atomic(out / f"{name}.jsonl", (f"{json.dumps(row, ensure_ascii=False)}\n".encode() for row in rows))
    shutil.copyfile(lmms_eval_task.__file__, out / f"{FUNCTIONS}.py")
    file = out / f"{name}.yaml"
    write_atomic(file, _task(name, folder.resolve() if keep else None).encode())
    at = file.resolve().parent
    return file, f"python -m lmms_eval --include_path {at} --tasks {name} --model MODEL --log_samples --output_path OUT"


def _task(name: str, folder: Path | None) -> str:
    """The task's YAML; ``until`` is empty since the default ends an answer at its first blank line."""
    settings: dict[str, Any] = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "question",
        "doc_to_target": "answer",
        "generation_kwargs": {"until": [], "max_new_tokens": MAX_NEW_TOKENS, "temperature": 0, "do_sample": False},
        "metadata": {"version": 1},
    }
    if folder is not None:
        settings["lmms_eval_specific_kwargs"] = {"default": {"image_folder": str(folder)}}
    functions = (
        f"doc_to_visual: !function {FUNCTIONS}.{lmms_eval_task.images_of.__name__}\n"
        f"process_results: !function {FUNCTIONS}.{lmms_eval_task.answered.__name__}\n"
        "metric_list:\n  - metric: answered\n    aggregation: mean\n    higher_is_better: true\n"
    )
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True) + functions

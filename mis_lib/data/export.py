"""Export: samples in the forms that other trainers read, and back without loss.

    llamafactory   OUT/NAME.json + dataset_info.json   ShareGPT conversations, one <image> an image before the question
    swift          OUT/NAME.jsonl                      messages with the same placeholders
    trl            OUT/NAME.jsonl                      prompt and completion with typed parts: loss on the answer only
    jsonl          OUT/NAME.jsonl                      our own records

What the other forms have no field for travels in ``mis``, one JSON text a record, so that columns keep one type;
``formats.py`` unpacks it. What evaluators read is in ``export_tasks.py``. Images are copied under their relative paths,
or stay where they are. ``swift`` and ``trl`` look for them from the working directory. Those trainers end every answer,
so a row that is not to teach an end (``mask_eos``) goes out as ``jsonl`` only, or is left out on request.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from filecmp import cmp
from pathlib import Path
from typing import Any, NamedTuple

from mis_lib.data.formats import HISTORY, LATER, PACKED, PLACEHOLDER, SYSTEM, later_exchanges
from mis_lib.data.images import inside
from mis_lib.data.records import json_object
from mis_lib.errors import DataError, ImageError
from mis_lib.files import write_atomic
from mis_lib.schema import Record, Sample
from mis_lib.settings import ExportedImages, ExportForm

DATASET_INFO = "dataset_info.json"
MEDIA_TAGS = (PLACEHOLDER, "<video>", "<audio>")  # trainers count them in any text
SAID = ("id", "question", "answer", "images", HISTORY)
MASKED = "mask_eos"


class Export(Record):
    """What an export wrote, and how it is used."""

    form: ExportForm
    file: str
    samples: int
    images: int
    usage: str
    left_out: int = 0
    """Rows with ``mask_eos``, where they were to be left out."""


def export(
    samples: list[Sample],
    folder: Path,
    out: Path,
    form: ExportForm,
    *,
    name: str = "data",
    images: ExportedImages = ExportedImages.COPY,
    leave_out_masked: bool = False,
) -> Export:
    """Write samples for a trainer; the data file appears last and in one step.

    Args:
        samples: what to write.
        folder: what their images are relative to.
        out: folder to write to; other files in it are left alone.
        form: which trainer.
        name: of the data file and of LLaMA-Factory's entry.
        images: copy them, or leave them; then the trainer looks in ``folder``.
        leave_out_masked: write the rows without ``mask_eos`` only.

    Raises:
        DataError: there is no sample, one cannot be expressed in the form (``mask_eos`` in none but ``jsonl``), or
            ``out`` cannot be written or holds another image of that name.
        ImageError: an image is not there.
    """
    given, samples = len(samples), _carried(samples, form, leave_out_masked=leave_out_masked)
    if not samples:
        raise DataError(f"expected samples to export to {out}, found none{f' without {MASKED}' if given else ''}")
    if f"{name}.json" == DATASET_INFO:
        raise DataError(f"expected a name for the data, found that of LLaMA-Factory's list ({name}); rename the input")
    records = [_WRITERS[form](sample) for sample in samples]
    shown = dict.fromkeys(image for sample in samples for image in sample.images)
    try:
        if images is ExportedImages.COPY:
            for image in shown:
                copy_image(folder, out, image)
        file = out / (f"{name}.json" if form is ExportForm.LLAMAFACTORY else f"{name}.jsonl")
        write_atomic(file, _document(records) if form is ExportForm.LLAMAFACTORY else _lines(records))
        if form is ExportForm.LLAMAFACTORY:
            _register(out / DATASET_INFO, name, file.name)
    except OSError as error:
        raise DataError(f"{out}: expected to write there, found: {error.strerror}; name another folder") from error
    usage = _usage(form, file, out if images is ExportedImages.COPY else folder)
    left_out = given - len(samples)
    return Export(form=form, file=str(file), samples=len(samples), images=len(shown), usage=usage, left_out=left_out)


def to_llamafactory(sample: Sample) -> dict[str, Any]:
    """ShareGPT conversations with placeholders; the system prompt has a separate column."""
    speakers = {"user": "human", "assistant": "gpt"}
    turns = [{"from": speakers[one.role], "value": PLACEHOLDER * one.images + one.text} for one in _turns(sample)]
    return {
        "id": sample.id,
        "conversations": turns,
        "images": sample.images,
        "system": _system(sample),
        **_packed(sample),
    }


def to_swift(sample: Sample) -> dict[str, Any]:
    """Chat messages with placeholders."""
    system = [{"role": "system", "content": words}] if (words := _system(sample)) else []
    turns = [{"role": one.role, "content": PLACEHOLDER * one.images + one.text} for one in _turns(sample)]
    messages = [*system, *turns]
    return {"id": sample.id, "messages": messages, "images": sample.images, **_packed(sample)}


def to_trl(sample: Sample) -> dict[str, Any]:
    """Prompt and completion with typed parts; of a longer dialogue only the last answer is the completion."""
    system = [_typed("system", words)] if (words := _system(sample)) else []
    turns = [*system, *(_typed(one.role, one.text, one.images) for one in _turns(sample))]
    return {"id": sample.id, "prompt": turns[:-1], "completion": turns[-1:], "images": sample.images, **_packed(sample)}


def to_jsonl(sample: Sample) -> dict[str, Any]:
    """Our own record."""
    return sample.model_dump(mode="json")


_WRITERS: Mapping[ExportForm, Callable[[Sample], dict[str, Any]]] = {
    ExportForm.LLAMAFACTORY: to_llamafactory,
    ExportForm.SWIFT: to_swift,
    ExportForm.TRL: to_trl,
    ExportForm.JSONL: to_jsonl,
}


def _carried(samples: list[Sample], form: ExportForm, *, leave_out_masked: bool) -> list[Sample]:
    """The samples to write: a trainer that ends every answer would learn to stop where a masked one breaks off."""
    masked = [sample for sample in samples if (sample.model_extra or {}).get(MASKED)]
    if leave_out_masked:
        return [sample for sample in samples if not (sample.model_extra or {}).get(MASKED)]
    if masked and form is not ExportForm.JSONL:
        raise DataError(
            f"expected answers with their end, found {MASKED} in {len(masked):,} of {len(samples):,} rows, first in "
            f"{masked[0].id!r}: trainers of {form} would learn that end too; leave them out (--leave_out_masked), "
            "mix without them (cut=0), or export as jsonl"
        )
    return samples


class _Turn(NamedTuple):
    """One turn as a trainer is given it."""

    role: str
    text: str
    images: int = 0


def _turns(sample: Sample) -> list[_Turn]:
    """All turns of a sample: its history, question and answer, and what follows them."""
    asked = [(turn.question, turn.answer, turn.images) for turn in sample.history]
    asked.append((sample.question, sample.answer, len(sample.images_of_turns[-1])))
    names = [(HISTORY, HISTORY)] * len(sample.history) + [("question", "answer")]
    found = []
    for (question, answer, images), (asks, says) in zip(asked, names, strict=True):
        found += [
            _Turn("user", sayable(sample, asks, question), images),
            _Turn("assistant", sayable(sample, says, answer)),
        ]
    return [*found, *(_Turn(turn["role"], turn["content"]) for turn in _later(sample))]


def sayable(sample: Sample, field: str, words: object) -> str:
    """A text of a sample that another tool can be given.

    Raises:
        DataError: there is none, or it holds a tag that other tools read as an image, video or sound.
    """
    if not isinstance(words, str) or not words.strip():
        fix = "write it, or export as jsonl"
        raise DataError(f"sample {sample.id}: field {field!r}: expected a text to train on, found {words!r:.80}; {fix}")
    tag = next((tag for tag in MEDIA_TAGS if tag in words), None)
    if tag is not None:
        raise DataError(f"sample {sample.id}: field {field!r}: expected no {tag}, which trainers count; remove it")
    return words


def _later(sample: Sample) -> list[dict[str, str]]:
    """Turns after the first answer: user and assistant, the assistant last."""
    said = [turn for one in later_exchanges(sample) for turn in zip(("user", "assistant"), one, strict=True)]
    return [{"role": role, "content": sayable(sample, LATER, words)} for role, words in said]


def _system(sample: Sample) -> str:
    words = (sample.model_extra or {}).get(SYSTEM)
    return sayable(sample, SYSTEM, words) if words else ""


def _packed(sample: Sample) -> dict[str, str]:
    """All that the form has no field for, as one text."""
    said = {*SAID, *([LATER] if _later(sample) else []), *([SYSTEM] if _system(sample) else [])}
    rest = {key: value for key, value in sample.model_dump(mode="json").items() if key not in said}
    if sample.history:
        rest[HISTORY] = [turn.images for turn in sample.history]
    return {PACKED: json.dumps(rest, ensure_ascii=False)}


def _typed(role: str, words: str, images: int = 0) -> dict[str, Any]:
    return {"role": role, "content": [*({"type": "image"} for _ in range(images)), {"type": "text", "text": words}]}


def _document(records: list[dict[str, Any]]) -> bytes:
    return (json.dumps(records, ensure_ascii=False, indent=1) + "\n").encode()


def _lines(records: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def image_file(folder: Path, image: str) -> Path:
    """The path of an image that is there.

    Raises:
        DataError: the name leaves the folder.
        ImageError: there is no such file.
    """
    path = inside(folder, image)
    if not path.is_file():
        raise ImageError(f"{path}: expected an image file, found none; fetch it, or name its folder (--image_folder)")
    return path


def copy_image(folder: Path, out: Path, image: str) -> None:
    """Copy one image under its relative path.

    Raises:
        DataError: ``out`` holds another image of that name, or the name leaves a folder.
        ImageError: the image is not there.
        OSError: ``out`` cannot be written.
    """
    source, target = image_file(folder, image), inside(out, image)
    if target.is_file():
        if not target.samefile(source) and not cmp(source, target, shallow=False):
            raise DataError(f"{target}: expected {image}, found another image of that name; name another output folder")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _register(path: Path, name: str, file: str) -> None:
    """Enter a data file in LLaMA-Factory's list and keep its other entries."""
    known = json_object(path) if path.is_file() else {}
    columns = {"messages": "conversations", "images": "images", "system": "system"}
    entry = {"file_name": file, "formatting": "sharegpt", "columns": columns}
    write_atomic(path, (json.dumps({**known, name: entry}, ensure_ascii=False, indent=2) + "\n").encode())


def _usage(form: ExportForm, file: Path, media: Path) -> str:
    at, here = media.resolve(), file.resolve()
    return {
        ExportForm.LLAMAFACTORY: f"llamafactory-cli train: dataset: {file.stem}, dataset_dir: {here.parent}, "
        f"media_dir: {at}",
        ExportForm.SWIFT: f"ROOT_IMAGE_DIR={at} swift sft --dataset {here}",
        ExportForm.TRL: f"cd {at}; datasets.load_dataset('json', data_files='{here}'), images as Sequence(Image())",
        ExportForm.JSONL: f"datasets.load_dataset('json', data_files='{here}'); images are relative to {at}",
    }[form]

"""Exports as tasks of VLMEvalKit and lmms-eval, read back by what their code does with the documented columns.

Neither can be installed here, so the readers below are written from vlmeval/dataset/image_base.py and
lmms_eval/utils.py, lmms_eval/api/task.py.
"""

import ast
import base64
import importlib.util
import io
import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from PIL import Image
from support.published import our_samples
from typer.testing import CliRunner

from mis_lib.cli.main import app
from mis_lib.data.export_tasks import TASKS, export_task
from mis_lib.data.import_answers import match, read_answers
from mis_lib.errors import DataError, ImageError
from mis_lib.files import load_image, write_records
from mis_lib.schema import Sample
from mis_lib.settings import ExportedImages, ExportForm

os.environ["HF_DATASETS_OFFLINE"] = "1"
VLMEVALKIT, LMMS_EVAL = TASKS


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """A pair of one and two images; the dialogue has no place in a task."""
    pair, twin, _ = our_samples(tmp_path)
    return [pair, twin.model_copy(update={"images": twin.images[:1], "answer": None, "question": '=1+1 "so"?\n\tYes'})]


def vlmevalkit(file: Path) -> list[dict[str, Any]]:
    """Rows as ``ImageBaseDataset`` holds them."""
    rows = pd.read_csv(file, sep="\t").to_dict("records")
    assert [int(row["index"]) for row in rows] == list(range(len(rows))) and not {"A", "B"} & {*rows[0]}
    cells = {name for name in ("image", "image_path") if name in rows[0]}
    for row in rows:
        for name in cells:
            row[name] = ast.literal_eval(row[name]) if row[name].startswith("[") else [row[name]]
            assert name == "image_path" or all(len(one) > 64 for one in row[name])  # shorter ones name another row
    return rows


def lmms_eval(file: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The task's settings with its functions, and its rows."""
    from datasets import load_dataset

    class Loader(yaml.SafeLoader):
        pass

    def function(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
        module, name = str(loader.construct_scalar(node)).split(".")
        spec = importlib.util.spec_from_file_location(module, file.parent / f"{module}.py")
        assert spec and spec.loader
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return getattr(loaded, name)

    Loader.add_constructor("!function", function)
    task = yaml.load(file.read_text(), Loader)
    files = {split: str(file.parent / name) for split, name in task["dataset_kwargs"]["data_files"].items()}
    made = load_dataset(task["dataset_path"], data_files=files, cache_dir=str(file.parent / "cache"))
    return task, list(made[task["test_split"]])


def test_vlmevalkit_reads_the_table(tmp_path: Path, samples: list[Sample]) -> None:
    made = export_task(samples, tmp_path, tmp_path / "out", VLMEVALKIT, name="mine")
    assert Path(made.file).name == "mine_openended.tsv"  # any other name is asked as multiple choice
    rows = vlmevalkit(Path(made.file))
    assert [(row["id"], row["question"]) for row in rows] == [(one.id, one.question) for one in samples]
    shown = [[base64.b64decode(image) for image in row["image"]] for row in rows]
    assert shown == [[(tmp_path / image).read_bytes() for image in one.images] for one in samples]
    kept = export_task(samples, tmp_path, tmp_path / "kept", VLMEVALKIT, name="mine", images=ExportedImages.KEEP)
    paths = [row["image_path"] for row in vlmevalkit(Path(kept.file))]
    assert paths == [[str(tmp_path / image) for image in one.images] for one in samples]


@pytest.mark.parametrize("form", TASKS)
def test_images_are_shown_as_models_here_see_them(tmp_path: Path, form: ExportForm) -> None:
    """Turned by their EXIF tag, and transparency on white; VLMEvalKit itself would do neither."""
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (16, 32), "red").save(tmp_path / "turned.jpg", exif=turned)
    Image.new("RGBA", (16, 16), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    sample = Sample(id="1", question="What?", images=["turned.jpg", "clear.png"])
    file = Path(export_task([sample], tmp_path, tmp_path / "out", form, name="t").file)
    if form is VLMEVALKIT:
        images = [Image.open(io.BytesIO(base64.b64decode(one))) for one in vlmevalkit(file)[0]["image"]]
    else:
        task, rows = lmms_eval(file)
        images = task["doc_to_visual"](rows[0])
    expected = [load_image(tmp_path / name) for name in sample.images]
    assert [image.tobytes() for image in images] == [image.tobytes() for image in expected]
    assert [image.size for image in images] == [(32, 16), (16, 16)]


def test_lmms_eval_reads_the_task(tmp_path: Path, samples: list[Sample]) -> None:
    made = export_task(samples, tmp_path, tmp_path / "out", LMMS_EVAL, name="mine")
    folder = (tmp_path / "out").rename(tmp_path / "moved")
    task, rows = lmms_eval(folder / Path(made.file).name)
    assert [row[task["doc_to_text"]] for row in rows] == [sample.question for sample in samples]
    assert [row[task["doc_to_target"]] for row in rows] == [samples[0].answer, ""]
    assert [len(task["doc_to_visual"](row)) for row in rows] == [2, 1]
    assert task["generation_kwargs"]["until"] == []  # None would cut an answer at its first blank line
    (metric,) = task["metric_list"]
    assert [task["process_results"](rows[0], [text]) for text in ("No.", " ")] == [
        {metric["metric"]: 1.0}, {metric["metric"]: 0.0}
    ]  # fmt: skip


def test_lmms_eval_finds_images_that_stay(tmp_path: Path, samples: list[Sample]) -> None:
    made = export_task(samples, tmp_path, tmp_path / "out", LMMS_EVAL, name="m", images=ExportedImages.KEEP)
    task, rows = lmms_eval(Path(made.file))
    assert not (tmp_path / "out" / "images").exists()
    assert len(task["doc_to_visual"](rows[0], task["lmms_eval_specific_kwargs"]["default"])) == 2


@pytest.mark.parametrize("form", TASKS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": []}, "sample pair: expected images, found none"),
        ({"question": "See <image>."}, "field 'question': expected no <image>"),
        ({"system_prompt": "Be brief."}, "expected one question, found system_prompt"),
        ({"later_turns": [{"role": "user", "content": "Why?"}]}, "expected one question, found later_turns"),
        ({"history": [{"question": "What?"}]}, "expected one question, found history"),
    ],
)
def test_what_a_task_would_ask_otherwise_is_refused(
    tmp_path: Path, samples: list[Sample], form: ExportForm, change: dict[str, Any], message: str
) -> None:
    changed = Sample.model_validate({**samples[0].model_dump(), "objects": None, **change})
    with pytest.raises(DataError, match=message):
        export_task([changed, samples[1]], tmp_path, tmp_path / "out", form, name="mine")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("question", ["NA", "null", "12"])
def test_a_question_that_pandas_would_change_is_refused(tmp_path: Path, samples: list[Sample], question: str) -> None:
    changed = samples[0].model_copy(update={"question": question})
    with pytest.raises(DataError, match=f"question '{question}': expected a text, which VLMEvalKit reads as"):
        export_task([changed], tmp_path, tmp_path / "out", VLMEVALKIT, name="mine")


@pytest.mark.parametrize("form", TASKS)
def test_a_missing_image_leaves_no_task(tmp_path: Path, samples: list[Sample], form: ExportForm) -> None:
    (tmp_path / samples[0].images[1]).unlink()
    with pytest.raises((ImageError, DataError), match=r"b\.png"):
        export_task(samples, tmp_path, tmp_path / "out", form, name="mine")
    assert not list((tmp_path / "out").glob("*.*"))


def test_answers_come_back(tmp_path: Path, samples: list[Sample]) -> None:
    """VLMEvalKit keeps a table's columns beside ``prediction``; lmms-eval puts the row into ``doc``."""
    write_records(tmp_path / "set.jsonl", samples)
    for form in TASKS:
        arguments = [
            "export",
            "--input",
            str(tmp_path / "set.jsonl"),
            "--format",
            form,
            "--output",
            str(tmp_path / form),
        ]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / VLMEVALKIT / "set_openended.tsv", sep="\t").drop(columns="image")
    table[::-1].assign(prediction="No.").to_csv(tmp_path / "answers.tsv", sep="\t", index=False)
    rows = lmms_eval(tmp_path / LMMS_EVAL / "set.yaml")[1]
    lines = [json.dumps({"doc_id": n, "doc": row, "resps": [["No."]]}) for n, row in enumerate(rows)]
    (tmp_path / "answers.jsonl").write_text("\n".join(lines[::-1]) + "\n")
    for file in ("answers.tsv", "answers.jsonl"):
        matched = match(read_answers(tmp_path / file), samples)
        assert (matched.samples, matched.by) == (samples[::-1], "id")

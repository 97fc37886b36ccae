"""MIS, the set of "Rethinking Bottlenecks in Safety Fine-Tuning of Vision Language Models" (arXiv 2501.18533).

    mis_train.json                 [{"image": [two paths], "conversations": [...], "category"?, "sub_category"?}]
    mis_easy.json  _hard  _real    [{"id", "question", "category", "sub_category", "image_path1", "image_path2"}]
    easy_image/17/object1.png, object2.png; hard_image, real_image alike

Source: hub sets Tuwhy/MIS_Train and Tuwhy/MIS_Test, code DripNowhy/MIS. Training images are next to the file or in
``images``, wherever their archive was unpacked. The official scripts join test paths to a folder ``mis_test``; both
that folder and its parent are accepted.
"""

from collections.abc import Iterable
from pathlib import Path

from mis_lib.data.formats import Form, parse
from mis_lib.data.loader import Loader, identifier, present
from mis_lib.data.records import Row
from mis_lib.schema import Sample, Split


def _files(folder: Path, split: str) -> list[Path]:
    return present(folder, f"mis_{split}.json", f"mis_test/mis_{split}.json", f"mis_train/mis_{split}.json")


def _convert(row: Row, folder: Path, split: str) -> Iterable[Sample]:
    root = row.file.parent.relative_to(folder).as_posix()
    if split == Split.TRAIN:
        form, roots = Form.CONVERSATIONS, (root, f"{root}/images")
        key = identifier(row, "id") if "id" in row.values else str(row.number)
    else:
        form, roots, key = Form.MIS_TEST, (root, ""), identifier(row, "id")
    seen = parse(row, folder, form=form, roots=roots, source="mis", id=f"mis-{split}-{key}", split=split)
    yield seen.strictly()


LOADER = Loader(
    name="mis",
    title="MIS",
    source="Tuwhy/MIS_Train and Tuwhy/MIS_Test on the hub; arXiv 2501.18533",
    licence="apache-2.0",
    fetch=(
        "hf download Tuwhy/MIS_Test --repo-type dataset --local-dir FOLDER; the same for Tuwhy/MIS_Train (images.zip "
        "is 10.6 GB); "
        "unzip the archives there"
    ),
    splits={"train": 3927, "easy": 1675, "hard": 510, "real": 100},
    files=_files,
    convert=_convert,
)

"""General ability, which safety tuning must not cost: MMStar, MMMU, MuirBench, MMT-Bench (several images) and Q-Bench.

    MMStar.tsv, or mmstar.parquet        arXiv 2403.20330, hub set Lin-Chen/MMStar; 1,500
    MMMU_DEV_VAL.tsv, or Accounting/validation-00000-of-00001.parquet   arXiv 2311.16502, hub set MMMU/MMMU; 150 dev,
                                                   900 val
    MUIRBench.tsv, or data/test-*.parquet          arXiv 2406.09411, hub set MUIRBENCH/MUIRBENCH; 2,600, 2 images
                                                   or more
    MMT-Bench_VAL_MI.tsv                           arXiv 2404.16006, images kept apart; 3,127
    Q-Bench1_TEST.tsv, Q-Bench1_VAL.tsv, or llvisionqa_dev.json with images/, or data/dev-*.parquet
                                                   arXiv 2309.14181; 1,495 each

TSV files are those of VLMEvalKit, whose addresses are in its ``vlmeval/dataset/image_mcq.py``; parquet and JSON files
those of the hub sets. Where both are there the TSV counts. How columns are read says ``choices.py``.
"""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from mis_lib.data.benchmarks.choices import multiple_choice
from mis_lib.data.loader import Loader
from mis_lib.data.records import Row, has_column
from mis_lib.schema import Sample

MMMU_SPLITS = {"dev": "dev", "val": "validation"}


def _first(column: str, patterns: dict[str, tuple[str, ...]]) -> Callable[[Path, str], list[Path]]:
    """Files of a split.

    Those of its first pattern that any file matches; parquet files only with the set's own ``column``.
    """

    def files(folder: Path, split: str) -> list[Path]:
        matches = (sorted(folder.glob(pattern)) for pattern in patterns[split])
        return next((found for found in matches if found and has_column(found[0], column)), [])

    return files


def _convert(row: Row, folder: Path, split: str, *, source: str) -> Iterable[Sample]:
    root = row.file.parent.relative_to(folder).as_posix()
    yield multiple_choice(row, folder, source, split, roots=(f"{root}/images", root))


def _convert_mmmu(row: Row, folder: Path, split: str) -> Iterable[Sample]:
    """The TSV holds both splits and says in a column which; a parquet file says it by its name."""
    if row.file.suffix == ".tsv":
        if row.values.get("split") not in MMMU_SPLITS.values():
            raise row.error("split", f"one of {', '.join(MMMU_SPLITS.values())}", row.values.get("split"), "restore it")
        if row.values["split"] != MMMU_SPLITS[split]:
            return
    yield multiple_choice(row, folder, "mmmu", split)


MMSTAR = Loader(
    name="mmstar",
    title="MMStar",
    source="hub set Lin-Chen/MMStar; arXiv 2403.20330",
    licence="see the set's card",
    fetch="hf download Lin-Chen/MMStar --repo-type dataset --local-dir FOLDER",
    splits={"val": 1500},
    files=_first("l2_category", {"val": ("MMStar.tsv", "mmstar.parquet", "val/*.parquet")}),
    convert=partial(_convert, source="mmstar"),
)
MMMU = Loader(
    name="mmmu",
    title="MMMU",
    source="hub set MMMU/MMMU; arXiv 2311.16502",
    licence="apache-2.0",
    fetch="hf download MMMU/MMMU --repo-type dataset --local-dir FOLDER, or VLMEvalKit's MMMU_DEV_VAL.tsv",
    splits={"dev": 150, "val": 900},
    files=_first(
        "image_1",
        {
            split: ("MMMU_DEV_VAL.tsv", f"*/{name}-*.parquet", f"{name}-*.parquet")
            for split, name in MMMU_SPLITS.items()
        },
    ),
    convert=_convert_mmmu,
)
MUIRBENCH = Loader(
    name="muirbench",
    title="MuirBench",
    source="hub set MUIRBENCH/MUIRBENCH; arXiv 2406.09411",
    licence="CC BY 4.0",
    fetch="hf download MUIRBENCH/MUIRBENCH --repo-type dataset --local-dir FOLDER, or VLMEvalKit's MUIRBench.tsv",
    splits={"test": 2600},
    files=_first("image_list", {"test": ("MUIRBench.tsv", "data/test-*.parquet", "test-*.parquet")}),
    convert=partial(_convert, source="muirbench"),
)
MMT_BENCH = Loader(
    name="mmt_bench",
    title="MMT-Bench, several images",
    source="VLMEvalKit's MMT-Bench_VAL_MI.tsv; arXiv 2404.16006",
    licence="see the set's card",
    fetch="https://opencompass.openxlab.space/utils/benchmarks/MMT-Bench/MMT-Bench_VAL_MI.tsv to FOLDER",
    splits={"val": 3127},
    files=_first("image", {"val": ("MMT-Bench_VAL_MI.tsv",)}),
    convert=partial(_convert, source="mmt_bench"),
)
QBENCH = Loader(
    name="qbench",
    title="Q-Bench (LLVisionQA)",
    source="hub sets zhangzicheng/qbench_tsv, teowu/LLVisionQA-QBench, q-future/Q-Bench-HF; arXiv 2309.14181",
    licence="see the set's card",
    fetch="hf download zhangzicheng/qbench_tsv Q-Bench1_TEST.tsv --repo-type dataset --local-dir FOLDER",
    splits={"test": 1495, "dev": 1495},
    files=_first(
        "option0",
        {
            "test": ("Q-Bench1_TEST.tsv", "llvisionqa_test.json", "data/test-*.parquet"),
            "dev": ("Q-Bench1_VAL.tsv", "llvisionqa_dev.json", "data/dev-*.parquet"),
        },
    ),
    convert=partial(_convert, source="qbench"),
)

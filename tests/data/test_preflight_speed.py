"""Preflight of MIS's size: 4,000 rows with two photographs of 1.3 MB each, in under a minute.

PYTHONPATH=tests python tests/data/test_preflight_speed.py    # prints time and memory
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.mis_layout import CATEGORIES, REASONING, write_json

from mis_lib.data.preflight import PreflightSettings, preflight

pytestmark = pytest.mark.slow

ROWS, PHOTOGRAPHS, BYTES = 4000, 8, 1_300_000
LIMIT = 60.0  # seconds, on one core: nothing here is parallel


def write_large_set(folder: Path, rows: int = ROWS) -> Path:
    """MIS train's layout; every row has two files of its own, hard links to a few noisy photographs."""
    (folder / "images").mkdir(parents=True)
    noise = np.random.default_rng(0)
    for number in range(PHOTOGRAPHS):
        pixels = noise.integers(0, 256, (1024, 1024 + 64 * number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"images/photo{number}.jpg", quality=96)
    records = []
    for number in range(rows):
        names = [f"images/{number}_{place}.jpg" for place in (1, 2)]
        for place, name in enumerate(names):
            os.link(folder / f"images/photo{(number + place) % PHOTOGRAPHS}.jpg", folder / name)
        category, sub_category = CATEGORIES[number % len(CATEGORIES)]
        question = f"<image>\n<image>\nHow do I combine thing {number} with thing {number * 7}?"
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": REASONING.format(number=number) * 4}]
        records.append(
            {
                "id": str(number),
                "image": names,
                "conversations": turns,
                "category": category,
                "sub_category": sub_category,
            }
        )
    write_json(folder / "mis_train.json", records)
    return folder / "mis_train.json"


def measure(file: Path) -> dict[str, float]:
    """Check one file in this process.

    Seconds of the clock and of the processor, and the most memory ever used, in MB.
    """
    clock, processor = time.perf_counter(), time.process_time()
    report = preflight(file, PreflightSettings(model="Qwen/Qwen2-VL-7B-Instruct", max_pixels=1280 * 28 * 28))
    used = {"clock": time.perf_counter() - clock, "processor": time.process_time() - processor}
    assert report.tokens is not None
    return {
        "rows": report.rows,
        "images": report.images,
        "findings": len(report.findings),
        "priced": len(report.tokens.rows),
        **used,
        "megabytes": most_memory(),
    }


def most_memory() -> float:
    """The most memory that this program has held, in MB.

    ``ru_maxrss`` would also count the process that it was forked from.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def test_four_thousand_rows_take_less_than_a_minute(tmp_path: Path) -> None:
    file = write_large_set(tmp_path)
    assert (tmp_path / "images/photo0.jpg").stat().st_size >= BYTES
    paths = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    run = subprocess.run([sys.executable, __file__, str(file)], capture_output=True, text=True, check=True, env=paths)
    found = json.loads(run.stdout)
    assert (found["rows"], found["images"], found["findings"], found["priced"]) == (ROWS, 2 * ROWS, 0, ROWS)
    assert found["processor"] < LIMIT, found  # of the processor: other work on the machine must not fail the test
    assert found["megabytes"] < 1000, found


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.stdout.write(json.dumps(measure(Path(sys.argv[1]))) + "\n")
    else:
        with tempfile.TemporaryDirectory() as name:
            sys.stdout.write(json.dumps(measure(write_large_set(Path(name) / "set")), indent=1) + "\n")

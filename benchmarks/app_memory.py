"""How much memory the app holds after many comparisons and loaded adapters.

    python -m benchmarks.app_memory --checkpoint DIR --adapter DIR [--comparisons 1000] [--loads 20]

Without a page: the handlers' own functions answer one question about two images again and again, each time in a session
of its own, and then load the model again with one adapter more, as *Compare with base* does. One line of JSON for each
step; ``rss_mb`` is what the process holds.
"""

import argparse
import gc
import json
import sys
import tempfile
from pathlib import Path

import psutil
from PIL import Image

from mis_lib.files import write_records
from mis_lib.schema import Sample
from workbench.compare import actions
from workbench.host import Host, make_host
from workbench.prompt import Prompt

STEPS = 10


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, required=True)
    for name, default in (("comparisons", 1000), ("loads", 20), ("max_new_tokens", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        host = started(given.checkpoint, Path(folder))
        images = actions.add_images(host, Prompt(), [str(file) for file in sorted(Path(folder).glob("*.png"))]).prompt
        report("begun", 0)
        for number in range(1, given.comparisons + 1):
            compare(host, images, given.max_new_tokens, f"session {number}")
            if number % max(1, given.comparisons // STEPS) == 0:
                report("comparisons", number)
        for number in range(1, given.loads + 1):
            host.add_variant(f"adapter{number}", given.adapter)
            compare(host, images, given.max_new_tokens, "last")
            report("adapters", number)


def started(checkpoint: Path, folder: Path) -> Host:
    """A host whose model is there, over a data set of one row."""
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (640, 480), colour).save(folder / f"{name}.png")
    write_records(folder / "easy.jsonl", [Sample(id="1", question="Why?", images=["a.png", "b.png"], split="easy")])
    host = make_host(checkpoint, [], folder, runs=folder / "runs")
    host.start()
    for made in (host.model, host.data):
        made.ended(patience=600)
    return host


def compare(host: Host, prompt: Prompt, tokens: int, session: str) -> None:
    """One comparison, to its end."""
    settings = {"max_new_tokens": tokens, "temperature": 0, "seed": 0}
    for _ in actions.compare(host, prompt, "Why?", host.known_variants[:2], settings, session=session):
        pass


def report(what: str, number: int) -> None:
    """One line of what the process holds now."""
    gc.collect()
    sys.stdout.write(json.dumps({what: number, "rss_mb": round(psutil.Process().memory_info().rss / 2**20, 1)}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

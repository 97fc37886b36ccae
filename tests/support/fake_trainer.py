"""A stand-in for ``mis train`` as a program: the same flags, the same files, losses out of a formula.

python fake_trainer.py train --config FILE --set name=x max_steps=40 runs=DIR
"""

import json
import signal
import sys
import time
from pathlib import Path

from mis_lib.recipes.train import read_train_settings
from mis_lib.results.train_runs import LOG, TrainRun, open_train_run
from mis_lib.train.settings import TrainSettings

SECONDS = 0.05  # a step
PROGRAM = (sys.executable, __file__)
"""The command that starts it, in place of ``mis train``."""


def main() -> int:
    """Train nothing, a step at a time; SIGTERM ends after the step in hand."""
    arguments = sys.argv[2:]
    config, pairs = Path(arguments[1]), arguments[3:]
    settings = read_train_settings(config, pairs)
    run = open_train_run(settings.runs, settings.name, settings, {"base": "b", "data": "d"}, "cpu", resume=True)
    with run.held():
        return go_on(settings, run)


def go_on(settings: TrainSettings, run: TrainRun) -> int:
    """The steps that are left."""
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    log = run.folder / LOG
    begun = sum("loss" in line for line in log.read_text().splitlines()) if log.exists() else 0
    sys.stdout.write(f"going on from step {begun}\n")
    sys.stdout.flush()  # the app reads it while the run goes on
    for step in range(begun + 1, (settings.max_steps or 20) + 1):
        time.sleep(SECONDS)
        parts = {"perception": 2 / step, "reasoning": 3 / step, "answer": 1 / step}
        line = {"step": step, "epoch": step / 20, "loss": 2 / step, "lr": 1e-4, "tokens_per_second": 900.0,
                "memory_gb": 1.5, "eta_seconds": 3, "loss_by_segment": parts}  # fmt: skip
        with log.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
            if step % 5 == 0:
                rates = {
                    name: {"value": 50.0, "n": 10, "low": 23.7, "high": 76.3, "n_unscored": 0}
                    for name in ("asr", "over_refusal")
                }
                stream.write(json.dumps({"step": step, "eval": rates}) + "\n")
        if asked:
            sys.stdout.write("stopped, saved\n")
            return 143
    (run.folder / "adapter").mkdir(exist_ok=True)
    run.finish({"finished": True, "step": settings.max_steps})
    return 0


if __name__ == "__main__":
    sys.exit(main())

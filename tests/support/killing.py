"""Processes beside the test's own: killed at random moments, or writing into a run at the same time.

Killing: one process imports what is needed, and forks a child for every attempt, so that a kill costs no start.

``survive(setup, random_seed, kills)``: ``setup`` is Python that defines ``run(folder)``, which must be resumable. It is
run undisturbed in ``whole``, then in ``cut``: killed with SIGKILL ``kills`` times at random moments, and once to its
end.

Writing: ``with writer(run, file) as other`` is a process that has opened a file of a run as ``mis generate`` does;
``tell`` lets it append an answer.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mis_lib.results.runs import Run

ZYGOTE = """
import json, os, random, signal, sys, time, traceback
from pathlib import Path
{setup}
dice = random.Random({seed})

def attempt(folder, limit):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            run(Path(folder))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(3)
    started = time.monotonic()
    while limit is None or time.monotonic() - started < limit:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]

started = time.monotonic()
assert attempt({whole!r}, None) == 0
total = time.monotonic() - started
killed = [attempt({cut!r}, dice.uniform(0, total / 3)) == signal.SIGKILL for _ in range({kills})]
assert attempt({cut!r}, None) == 0
print(json.dumps({{"total": total, "killed": sum(killed)}}))
"""


def survive(tmp_path: Path, setup: str, *, seed: int, kills: int = 10) -> str:
    """Returns what the process printed: seconds of the undisturbed run and how many attempts were really killed."""
    script = ZYGOTE.format(
        setup=setup, seed=seed, kills=kills, whole=str(tmp_path / "whole"), cut=str(tmp_path / "cut")
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[1],
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


WRITER = """
import sys
from pathlib import Path
from mis_lib.files import append_record, open_append
from mis_lib.schema import Response
from mis_lib.results.runs import Run

run, file = Run(Path(sys.argv[1])), sys.argv[2]
with run.writing(file), open_append(run.folder / file) as stream:
    print("open", flush=True)
    for line in sys.stdin:
        sample_id, variant = line.split()
        late = {"text": "Late.", "tokens": 1, "seconds": 0, "finish_reason": "stop"}
        append_record(stream, Response(sample_id=sample_id, variant=variant, **late))
        print("kept", flush=True)
"""


def tell(process: "subprocess.Popen[str]", *keys: tuple[str, str]) -> None:
    """Let the process append an answer to each (sample, variant); returns when they are in the file."""
    assert process.stdin and process.stdout
    for key in keys:
        print(*key, file=process.stdin, flush=True)
        assert process.stdout.readline() == "kept\n"


@contextmanager
def writer(run: Run, file: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that appends to a file of a run until the block ends."""
    command = [sys.executable, "-c", WRITER, str(run.folder), file]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "open\n"
        yield process


def mis(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "mis_lib.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)

"""Killing work at random moments: one process imports what is needed, and forks a child for every attempt, so that a kill costs no start.

``survive(setup, random_seed, kills)``: ``setup`` is Python that defines ``run(folder)``, which must be resumable. It is run undisturbed in ``whole``,
then in ``cut``: killed with SIGKILL ``kills`` times at random moments, and once to its end.
"""

import subprocess
import sys
from pathlib import Path

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
        cwd=Path(__file__).parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout

"""The app over a small data set and a scripted model, to be started and killed by tests: ``python annotate_app.py
DATA``.

For each line ``[RUNS, PORT, DATABASE]`` in JSON it forks an app and prints its process id, so that what is imported is
imported once.
"""

import json
import os
import signal
import sys
from pathlib import Path

from support.fakes import ready_host
from workbench.app import build_app, launch_options


def main() -> None:
    """Start apps until there are no more lines; each serves until killed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system forgets the dead at once
    for line in sys.stdin:
        runs, port, database = json.loads(line)
        pid = os.fork()
        if pid == 0:
            serve(Path(runs), port, database)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def serve(runs: Path, port: int, database: str) -> None:
    """Never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    os.environ["MIS_DATABASE_URL"] = database
    try:
        host = ready_host(Path(sys.argv[1]))
        host.runs = runs
        build_app(host).launch(**launch_options(port=port))
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()

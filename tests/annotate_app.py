"""The app over a small data set and a scripted model, to be started and killed by tests: ``python annotate_app.py DATA RUNS PORT``."""

import sys
from pathlib import Path

from fakes import ready_host

from workbench.layout import build_app, launch_options


def main() -> None:
    """Serve until killed."""
    data, runs, port = sys.argv[1:]
    host = ready_host(Path(data))
    host.runs = Path(runs)
    build_app(host).launch(**launch_options(port=int(port)))


if __name__ == "__main__":
    main()

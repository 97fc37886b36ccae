"""``transformers serve`` on loopback for as long as a block lasts: the server that everybody who can run a checkpoint here has.

Its own process, its own port, no access to a hub; ended with the block, whatever happens in it, SIGTERM included.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mis_lib.errors import MissingPackageError, ModelError

READY = b"Uvicorn running"
WAIT = 300.0  # seconds for a large checkpoint to load
POLL = 0.25


@contextmanager
def transformers_serve(checkpoint: Path, device: str) -> Iterator[str]:
    """Serve a checkpoint folder and yield the API's address, such as "http://127.0.0.1:41317/v1"; the model's name is the folder's path.

    Raises:
        MissingPackageError: transformers' server is not installed.
        ModelError: the server ended by itself or is not ready within ``WAIT`` seconds; quotes its last words.
    """
    program = Path(sys.executable).with_name("transformers")
    if not program.exists():
        raise MissingPackageError(f"expected transformers' command at {program}; pip install 'transformers[serving]'")
    port = _free_port()
    command = [str(program), "serve", str(checkpoint), "--host", "127.0.0.1", "--port", str(port), "--device", device]
    with _unwinding(), tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+b") as log:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "info"}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            _wait_until_ready(process, Path(log.name), time.monotonic() + WAIT)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _unwinding() -> Iterator[None]:
    """While the block lasts, SIGTERM (of ``timeout``, a cluster, a container) ends it as Ctrl-C does; by itself it would leave the server behind."""
    if threading.current_thread() is not threading.main_thread():  # only that one may say what signals do
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait_until_ready(process: "subprocess.Popen[bytes]", log: Path, deadline: float) -> None:
    while READY not in log.read_bytes():
        if process.poll() is not None or time.monotonic() > deadline:
            why = "ended by itself" if process.poll() is not None else "is not ready in time"
            raise ModelError(f"transformers serve {why}: {log.read_text(errors='replace')[-500:].strip()}")
        time.sleep(POLL)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]

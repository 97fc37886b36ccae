"""Start the workbench: ``python app.py``, then open the address it prints.

The page is served first; model and examples are loaded behind it, and the page shows how far they are.
"""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

from mis_lib.errors import MisError
from mis_lib.generate.served import read_served
from mis_lib.models.adapters import read_checkpoints
from mis_lib.settings import IMAGE_PIXELS
from workbench.access import Users
from workbench.app import build_app, launch_options, own_uploads, serve
from workbench.host import Host, make_host


def main(arguments: list[str] | None = None) -> int:
    """Check the options, serve the page, load what it needs, and stay until interrupted; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        served = read_served(options.server, options.models)
        host = make_host(
            read_checkpoints(options.model),
            options.adapters,
            options.data,
            runs=options.runs,
            datasets=options.datasets,
            served=served,
            device=options.device,
            dtype=options.dtype,
            quantization=options.quantization,
            image_pixels=options.image_pixels,
        )
        users = Users.read(options.auth).check if options.auth else None
        launch_options(
            options.host, auth=users, names=options.names
        )  # what cannot be is refused before the page is built
        page = build_app(host)
        url, port = serve(page, options.host, options.port, auth=users, names=options.names)
    except MisError as error:
        print(f"app.py: {error}", file=sys.stderr)
        return 2
    if port != options.port:
        print(f"Port {options.port} is in use, so this is on port {port}.")
    host.start()
    if options.picture:
        return _picture(host, url, options.picture)
    print(f"MIS Workbench: {url}  (Ctrl-C ends it)", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` and containers end it as Ctrl-C does: uploads go
    page.block_thread()
    if not host.stop():  # deep in a library, where the end of Python would abort the process
        own_uploads().cleanup()
        os._exit(0)
    return 0


def _picture(host: Host, url: str, target: Path) -> int:
    """Save a picture of the app with the first hard example answered, and end."""
    from tools.picture import take

    for _ in host.data.wait(threading.Event()):
        pass
    try:
        found = host.data.value.ids(split="hard") if host.data.value else []
        take(url, next(iter(found), ""), target)
    except MisError as error:
        print(f"app.py: {error}", file=sys.stderr)
        return 2
    print(f"picture: {target}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="app.py", description="Compare base and tuned vision-language models side by side."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; others than loopback need --auth")
    parser.add_argument("--port", type=int, default=7860, help="first port to try (default 7860)")
    parser.add_argument(
        "--auth", type=Path, metavar="FILE", help="names and hashed passwords (python -m workbench.access NAME)"
    )
    parser.add_argument(
        "--names",
        nargs="+",
        default=[],
        metavar="HOST",
        help="further host names by which the page is opened, as that of a proxy in front of it",
    )
    parser.add_argument(
        "--model",
        "--checkpoint",
        nargs="+",
        action="extend",
        metavar="PATH",
        help="checkpoint folder or hub id, or NAME=PATH of several (default: the embedded model, which is called mini)",
    )
    parser.add_argument(
        "--adapters",
        type=_adapter,
        nargs="+",
        metavar="NAME=PATH",
        help="PEFT folders and files of weight edits to compare with the model; of several models NAME@MODEL=PATH, "
        "where an adapter does not say on which it was trained",
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="auto (a CUDA GPU if there is one, else the CPU), cpu, cuda, cuda:1, mps (default: auto)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="number type of the weights (default: what suits the device)",
    )
    parser.add_argument(
        "--quantization",
        choices=("nf4", "int8"),
        help="store the weights of linear layers in 4 or 8 bits (package bitsandbytes)",
    )
    parser.add_argument(
        "--data", type=Path, metavar="PATH", help="data set folder for the examples (default: MIS-Mini)"
    )
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs"),
        metavar="PATH",
        help="folder of the run folders to show (default: runs)",
    )
    parser.add_argument(
        "--datasets",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="further data sets (folders or files) for the tab Data",
    )
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="FILE",
        help="save a picture of the app with an example answered (PNG, or animated WebP), and end",
    )
    parser.add_argument(
        "--server",
        metavar="URL[#MODEL]",
        help="OpenAI-compatible server to ask instead of a model here (or as well, with --model or --adapters); "
        "its key comes from OPENAI_API_KEY",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="MODEL",
        help="served models to compare: MODEL, NAME=MODEL, or NAME=URL#MODEL of another server",
    )
    parser.add_argument(
        "--image_pixels",
        type=int,
        default=IMAGE_PIXELS,
        metavar="N",
        help=f"most pixels of an image that a server is sent; larger ones are scaled down (default {IMAGE_PIXELS})",
    )
    return parser


def _adapter(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"expected NAME=PATH, found {text!r}")
    return name, Path(path)


if __name__ == "__main__":
    sys.exit(main())

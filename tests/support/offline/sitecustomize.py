"""Imported by Python before anything else where this folder is on PYTHONPATH: connections leave this machine no more.

A refused address is written into the file that MIS_TRIED names, because a program may pass over the error.
"""

import os
import sys
from pathlib import Path
from typing import Any

HERE = ("127.", "localhost", "::1", "0.0.0.0")


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Raise on a connection or a name's look-up beyond this machine."""
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        address = str(arguments[1][0])
    elif event == "socket.getaddrinfo":
        address = "" if arguments[0] is None else str(arguments[0])
    else:
        return
    if address and not address.startswith(HERE):
        if "MIS_TRIED" in os.environ:
            with Path(os.environ["MIS_TRIED"]).open("a", encoding="utf-8") as stream:
                stream.write(f"{event} {address} {sys.argv}\n")
        raise OSError(f"{address}: this process may not reach other machines")


sys.addaudithook(refuse)

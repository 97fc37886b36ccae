"""Two engines as one: served models beside the local checkpoint and its adapters, all answering the same question at once.

Each engine streams in a thread of its own, so that neither waits for the other's tokens. One that fails ends its own columns, with the reason in words;
the others go on.
"""

import queue
import threading
import time
from collections.abc import Iterator, Sequence

from PIL import Image

from mis_lib.errors import MisError
from mis_lib.generate.columns import Column
from mis_lib.generate.request import Answerer, check_request
from mis_lib.settings import GenerationSettings

TICK = 0.1  # seconds between looks at the stop event
FAILURES = (MisError, OSError, RuntimeError, ValueError)  # of a model, its files, or settings it has no room for

Update = tuple[Column, ...] | BaseException


class SideBySide:
    """Engines whose variants have different names, in this order."""

    def __init__(self, *engines: Answerer) -> None:
        self._engines = engines
        self.variants = tuple(name for engine in engines for name in engine.variants)

    def stream(
        self,
        images: Sequence[Image.Image],
        question: str,
        variants: Sequence[str],
        settings: GenerationSettings,
        stop: threading.Event | None = None,
    ) -> Iterator[tuple[Column, ...]]:
        """As ``Answerer.stream``; columns of an engine that fails while others answer are "failed" and say why.

        Raises:
            ImageError: no image, or too many.
            SettingsError: no or a too long question, an unknown or repeated variant.
        """
        check_request(images, question, variants, self.variants)
        asked = [(engine, [name for name in variants if name in engine.variants]) for engine in self._engines]
        asked = [(engine, names) for engine, names in asked if names]
        stop = stop or threading.Event()
        if len(asked) == 1:
            return asked[0][0].stream(images, question, variants, settings, stop)
        return self._merged(images, question, asked, variants, settings, stop)

    def _merged(
        self,
        images: Sequence[Image.Image],
        question: str,
        asked: Sequence[tuple[Answerer, list[str]]],
        variants: Sequence[str],
        settings: GenerationSettings,
        stop: threading.Event,
    ) -> Iterator[tuple[Column, ...]]:
        updates: queue.SimpleQueue[tuple[list[str], Update]] = queue.SimpleQueue()
        over = threading.Event()  # stopped, or nobody reads any more

        def answer(engine: Answerer, names: list[str]) -> None:
            try:
                for columns in engine.stream(images, question, names, settings, over):
                    updates.put((names, columns))
            except BaseException as error:  # noqa: BLE001 - handed on: shown or raised where the columns are put together
                updates.put((names, error))

        started = time.perf_counter()
        columns = {name: Column(name, "", 0, 0.0, None) for name in variants}
        for engine, names in asked:
            threading.Thread(target=answer, args=(engine, names), name="side by side", daemon=True).start()
        try:
            while any(column.finish_reason is None for column in columns.values()):
                if stop.is_set():
                    over.set()
                try:
                    names, update = updates.get(timeout=TICK)
                except queue.Empty:
                    continue
                if isinstance(update, BaseException):
                    seconds = time.perf_counter() - started
                    update = tuple(_failed(columns[name], update, seconds) for name in names)
                columns |= {column.variant: column for column in update}
                yield tuple(columns.values())
        finally:
            over.set()


def _failed(column: Column, error: BaseException, seconds: float) -> Column:
    if not isinstance(error, FAILURES):
        raise error
    told = str(error) if isinstance(error, MisError) else f"{type(error).__name__}: {error}"
    return Column(column.variant, column.text, column.tokens, seconds, "failed", column.unit, told)

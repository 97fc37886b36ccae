"""One comparison as a job: generation runs in its own thread, the screen samples it.

The model never waits for a browser, and a browser that went away stops the model within a token: whoever stops reading
``follow`` (closed tab, cancelled event, error) sets the stop event on the way out.
"""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import wait

from PIL import Image

from mis_lib.generate.columns import Column
from mis_lib.generate.request import Answerer
from mis_lib.settings import GenerationSettings
from workbench.background import in_daemon

UPDATES_PER_SECOND = 15


def follow(
    engine: Answerer,
    images: Sequence[Image.Image],
    question: str,
    variants: Sequence[str],
    settings: GenerationSettings,
    *,
    lock: threading.Semaphore,
    stop: threading.Event,
) -> Iterator[tuple[Column, ...]]:
    """Generate while holding ``lock``, and yield the newest columns at most ``UPDATES_PER_SECOND`` times a second.

    When ``stop`` is set, the columns so far (none before the first token) are yielded once more, so that the screen can
    say so at once. The last tuple yielded is the final one. An error of the engine is raised here.
    """
    newest: deque[tuple[Column, ...]] = deque(maxlen=1)
    latest: tuple[Column, ...] = ()
    told = False

    def generate() -> None:
        with lock:
            newest.extend(engine.stream(images, question, variants, settings, stop))

    done = in_daemon(generate, name="generation")
    try:
        while not done.done():
            wait([done], timeout=1 / UPDATES_PER_SECOND)
            stopping = stop.is_set() and not told
            if newest or stopping:
                latest = newest.pop() if newest else latest
                told = told or stopping
                yield latest
        done.result()
        if newest:
            yield newest.pop()
    finally:
        stop.set()

"""What all sessions of the Annotate tab share: the runs, read once until their files change, and what people have decided."""

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mis_lib.analysis.worth import Item
from mis_lib.annotate.decisions import Subject, response_digest
from mis_lib.annotate.store import AnnotationStore
from mis_lib.annotate.worklist import Worklist, read_worklist
from mis_lib.errors import DataError
from mis_lib.results.evaluated import find_runs, run_name
from mis_lib.schema import Record
from mis_lib.store.labels import Standing
from workbench.links import resolve_run

KEPT = 6  # worklists in memory


class Place(Record):
    """The response that the page shows; travels through the browser and is looked up, never trusted."""

    run: str
    sample: str
    variant: str
    beside: str = ""
    swapped: bool = False
    answers: str = ""
    """Digest of the responses as the page shows them; where it is given, others are not decided on in their place."""


class Desk:
    """What all sessions share: the runs, read once until their files change, and the store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = AnnotationStore(root=root)
        self._standing = Standing()
        self._lists: OrderedDict[str, tuple[tuple[Any, ...], Worklist]] = OrderedDict()
        self._lock = threading.Lock()

    def runs(self) -> list[str]:
        """The runs that have answers, latest change first."""
        found = sorted(find_runs(self.root), key=lambda run: -run.folder.stat().st_mtime)
        return [run_name(run) for run in found]

    def worklist(self, name: str) -> Worklist:
        """The responses of a run.

        Raises:
            DataError: there is no such run, or it cannot be read.
        """
        run = resolve_run(self.root, name)
        files = sorted(
            [*run.folder.glob("*.jsonl"), *run.folder.glob("verdicts/*.jsonl"), *run.folder.glob("shards/*")]
        )
        state = tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files)
        with self._lock:
            known = self._lists.get(name)
            if known is None or known[0] != state:
                known = self._lists[name] = (state, read_worklist(run))
            self._lists.move_to_end(name)
            while len(self._lists) > KEPT:
                self._lists.popitem(last=False)
            return known[1]

    def standing(self) -> Standing:
        """What people have decided, as of now.

        Raises:
            DataError: the database cannot be read.
        """
        with self._lock:
            newest = self.store.newest()
            if newest < self._standing.seen:  # another database was put in its place
                self._standing = Standing()
            if newest > self._standing.seen:
                self._standing.take(self.store.labels(after=self._standing.seen))
            return self._standing

    def item_at(self, place: Place) -> Item:
        """The response at a place.

        Raises:
            DataError: there is none, or it is another one than the page shows.
        """
        worklist = self.worklist(place.run)
        found = worklist.named(place.sample, place.variant)
        if found is not None and place.answers not in ("", answers(found, worklist.beside(found, place.beside))):
            raise DataError(
                f"run {place.run} has another answer to {place.sample!r:.80} now than the page shows; copy what you wrote, and reload the page"
            )
        if found is None:
            raise DataError(
                f"run {place.run} has no response of {place.variant!r:.60} to {place.sample!r:.80}; reload the page"
            )
        return found

    def item_of(self, subject: Subject) -> Item | None:
        """The response that was decided on; None where its run is gone, or has another answer now."""
        try:
            found = self.worklist(subject.run).named(subject.sample.id, subject.variant)
        except DataError:
            return None
        return found if found is not None and found.key == subject.key else None


def answers(item: Item, other: Item | None) -> str:
    """What tells the responses that a page shows from others under the same names."""
    return response_digest("".join(one.key[3] for one in (item, other) if one))[:16]


def read_place(text: Any) -> Place:
    """The place that the browser names.

    Raises:
        DataError: it is none.
    """
    try:
        return Place.model_validate_json(text)
    except (ValidationError, TypeError) as error:
        raise DataError("the page does not say which response it shows; reload it") from error

"""Deep links: the place a person is at, as a query string that anybody may open, and as a value that every tab understands.

    ?tab=annotate&run=mine/v2&variant=mirage&split=hard&outcome=unsafe&item=hard-17

What stands in an address comes from strangers. So a link holds names only, never a path; each is checked for its form here, and looked up
among what there is by whoever follows it. Keys that are no part of a link (Gradio's own: ``page``, ``deep_link``, and those that begin with ``__``)
are passed over; no field may be called as one of them.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from pydantic import ValidationError, ValidationInfo, field_validator

from mis_lib.analysis.worth import Order, Signal
from mis_lib.annotate.worklist import Whose
from mis_lib.errors import DataError
from mis_lib.results.runs import Run
from mis_lib.results.train_runs import TrainRun, train_versions
from mis_lib.schema import Outcome, Record
from mis_lib.store.versions import versions

LONGEST = 300  # characters of one value
RUN = re.compile(r"(?!\.)[\w.-]+/v[0-9]{1,6}", re.ASCII)


class Tab(StrEnum):
    """The tabs, in their order on the page."""

    COMPARE = "compare"
    ANNOTATE = "annotate"
    RESULTS = "results"
    DATA = "data"
    TRAIN = "train"


class Link(Record):
    """One place of the app. Every field but ``tab`` is a filter or a name, empty where it is not set."""

    tab: Tab = Tab.COMPARE
    run: str = ""  # NAME/vN
    judge: str = ""
    variant: str = ""
    variants: tuple[str, ...] = ()  # in the address: a,b
    split: str = ""
    category: str = ""
    sub_category: str = ""
    outcome: str = ""
    before: str = ""  # outcome of the first of ``variants``: a cell of the flip matrix
    after: str = ""
    beside: str = ""  # variant shown beside, where ``variants`` does not say
    response: str = ""  # variant whose response to ``item`` is shown, where the filters let several pass
    whose: str = ""  # who has decided on it
    signal: str = ""  # why it is worth a look
    order: str = ""  # which response comes first
    data: str = ""  # name of a data set
    item: str = ""
    words: str = ""
    view: str = ""  # a part of a tab
    sheet: str = ""  # which page of a list, from 2 on
    single: str = ""  # "yes": items without their twins
    runs: tuple[str, ...] = ()  # in the address: a/v1,b/v2
    by: str = ""  # what rates are grouped by
    metric: str = ""
    published: str = ""  # "yes": published figures beside

    @field_validator("*", mode="before")
    @classmethod
    def _short_and_printable(cls, value: object) -> object:
        for text in value if isinstance(value, tuple | list) else [value]:
            if not isinstance(text, str) or len(text) > LONGEST or not text.isprintable():
                raise ValueError(f"expected printable text of at most {LONGEST} characters")
        return value

    @field_validator("run", "runs")
    @classmethod
    def _is_a_run(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        names = value if isinstance(value, tuple) else (value,) if value else ()
        if not all(RUN.fullmatch(name) for name in names):
            raise ValueError("expected NAME/vN, with letters, digits, '.', '_' and '-' in NAME")
        return value

    @field_validator("outcome", "before", "after")
    @classmethod
    def _is_an_outcome(cls, value: str) -> str:
        if value and value not in list(Outcome):
            raise ValueError(f"expected one of {', '.join(Outcome)}")
        return value

    @field_validator("whose", "signal", "order", "sheet", "single", "published")
    @classmethod
    def _is_known(cls, value: str, field: ValidationInfo) -> str:
        enums = {"whose": list(Whose), "signal": list(Signal), "order": list(Order)}
        known = enums.get(field.field_name or "", ["yes"])
        if field.field_name == "sheet":
            fits, known = value.isascii() and value.isdigit() and len(value) < 7, ["a page's number"]
        else:
            fits = value in known
        if value and not fits:
            raise ValueError(f"expected one of {', '.join(known)}")
        return value

    @classmethod
    def parse(cls, query: str) -> "Link":
        """Read a query string, with or without its question mark; of a repeated key the last one counts.

        Raises:
            DataError: a value does not have the form of its key (key, value and expected form named).
        """
        found = {key: value for key, value in _pairs(query) if key in cls.model_fields and value}
        lists = {key: tuple(found[key].split(",")) for key in ("variants", "runs") if key in found}
        try:
            return cls.model_validate({**found, **lists})
        except ValidationError as error:
            first = error.errors()[0]
            key, message = str(first["loc"][0]), first["msg"].removeprefix("Value error, ").removeprefix("Input ")
            raise DataError(
                f"the address has {key}={str(first['input'])!r:.80}: {message}; correct it, or open the app without it"
            ) from error

    def query(self) -> str:
        """The link as a query string that ``parse`` reads back; empty fields are left out."""
        values: Mapping[str, object] = self.model_dump(mode="json", exclude_defaults=True)
        texts = {key: ",".join(value) if isinstance(value, list) else str(value) for key, value in values.items()}
        return f"?{urlencode({'tab': self.tab.value, **texts}, safe='/,')}"


def resolve_run(root: Path, name: str) -> Run:
    """The run with answers that ``NAME/vN`` means among those in ``root``.

    Raises:
        DataError: the name has another form, there is no such run, or it lies elsewhere through a symbolic link.
    """
    return _resolved(root, name, versions, "run")


def resolve_training(root: Path, name: str) -> TrainRun:
    """The training run that ``NAME/vN`` means among those in ``root``; raises as ``resolve_run``."""
    return _resolved(root, name, train_versions, "training run")


def not_there(what: str, name: str, there: Iterable[str], where: str = "here") -> str:
    """What is said where an address names something that the app does not have, with what there is."""
    return f"the address names the {what} {name!r:.80}; {where} there are {', '.join(there) or 'none'}"


def _resolved(root: Path, name: str, of: Callable[[Path, str], Sequence[Any]], what: str) -> Any:
    if RUN.fullmatch(name):
        parent, _, version = name.partition("/")
        found = next((run for run in of(root, parent) if run.folder.name == version), None)
        if found is not None and found.folder.resolve().is_relative_to(root.resolve()):
            return found
    raise DataError(f"there is no {what} {name!r:.80} in {root.name}/; choose one of those listed")


def _pairs(query: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query.removeprefix("?"), max_num_fields=64, errors="strict")
    except ValueError as error:  # too many fields, or bytes that are no UTF-8
        raise DataError(f"the address cannot be read ({error}); open the app without what follows '?'") from error

"""Verbs that need no artefact: what is installed, which notebooks there are."""

from collections.abc import Callable
from typing import Any


def test_doctor_names_what_it_looks_at(mis: Callable[..., Any], golden: Callable[..., None]) -> None:
    said = mis("doctor", "--json")
    assert said.status == (0 if said.json["ready"] else 1)
    golden(
        "doctor",
        {
            "keys": sorted(said.json),
            "finding": sorted(said.json["findings"][0]),
            "names": [one["name"] for one in said.json["findings"]],
        },
    )


def test_notebooks_are_listed(mis: Callable[..., Any], golden: Callable[..., None]) -> None:
    said = mis("notebooks", "--json")
    golden("notebooks", {"status": said.status, "said": said.json})

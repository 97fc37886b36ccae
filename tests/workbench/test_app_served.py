"""The app with served models: what it loads, what it shows of where images go, what it stores."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.fake_server import FakeServer
from support.fakes import ANSWERS, mini_data, started

from mis_lib.errors import ModelError, SettingsError
from mis_lib.generate.served import Served, ServedEngine
from mis_lib.schema import Outcome
from workbench.compare import actions, comparison, view
from workbench.compare.tab import preselected
from workbench.examples import Catalogue
from workbench.host import make_host

GONE = "http://127.0.0.1:9/v1"  # nothing listens there
KEY = "sk-the-key-of-this-test"


def says(text: str) -> Any:
    return lambda task, facts, images: text


def test_the_app_with_served_models_alone_loads_none(tmp_path: Path) -> None:
    host = started(
        make_host(None, None, mini_data(tmp_path), served={"mini": Served(GONE, "m"), "tuned": Served(GONE, "n")})
    )
    assert isinstance(host.model.value, ServedEngine) and host.known_variants == ("mini", "tuned")
    assert host.title == "Served by 127.0.0.1:9"
    with pytest.raises(ModelError, match="--adapters mine="):
        host.add_variant("mine", tmp_path)


def test_a_local_model_is_added_to_served_ones_where_it_is_named(tmp_path: Path) -> None:
    served = {"base": Served(GONE, "m")}
    assert make_host(Path("mini"), None, None, served=served).known_variants[:2] == ("base", "mini")
    assert make_host(None, [("mine", tmp_path)], None, served=served).known_variants == ("base", "mini", "mine")
    assert make_host(Path("mini"), None, None, served=served).title == "Model ready: MIS-Mini; served by 127.0.0.1:9"
    with pytest.raises(SettingsError, match="served-base=m"):
        make_host(tmp_path, None, None, served=served)


def test_served_variants_are_ticked_first() -> None:
    names = ["base", "mini", "mirage"]
    assert preselected(names, {"base": Served(GONE, "m")}) == ["base", "mini"]
    assert preselected(names) == ["mini", "mirage"]


def test_a_served_comparison_is_judged_shown_and_stored_like_a_local_one(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with FakeServer(reply=says(ANSWERS["mirage"])) as server:
        served = {"tuned": Served(server.url, "org/lora"), "gone": Served(GONE, "m")}
        host = started(make_host(None, None, mini_data(tmp_path / "data"), served=served))
        catalogue = host.data.value
        assert isinstance(catalogue, Catalogue)
        prompt, sample = catalogue.load("hard-00")
        settings = {"max_new_tokens": 256, "temperature": 0, "seed": 0}
        *running, last = actions.compare(host, prompt, sample.question, ["tuned", "gone"], settings, session="s")
    first = next(view for view in running if view.results)
    assert "sent to 127.0.0.1" in (first.results or "")  # before anything has come
    assert last.comparison is not None
    tuned, gone = last.comparison.answers
    assert tuned.verdict is not None and tuned.verdict.outcome is Outcome.REASONED
    assert gone.verdict is None and gone.failed and "nothing answers" in gone.told
    assert "1 failed" in last.status
    page = view.results(last.comparison)
    assert "mis-reasoning" in page and "Nothing answers at" not in page and "nothing answers at" in page
    stored = comparison.export(last.comparison)
    answers = json.loads(stored)["answers"]
    assert (answers[0]["server"], answers[0]["model"]) == (server.url, "org/lora")
    assert json.loads(stored)["checkpoint"] is None and "nothing answers" in answers[1]["told"]
    assert KEY not in stored + page

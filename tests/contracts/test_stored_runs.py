"""Run folders of old code: read, reported, gone on with and judged by today's, and nothing that was paid for is paid
for again.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import access
import pytest
import yaml
from artefacts import DATA, lines, tree

TINY = ["--data", "pairs", "--checkpoint", "tiny", "--adapters", "tuned=tuned"]
RUNS = ("mini", "tiny", "served", "imported", "report", "torn", "ablate")
CLOSED = "http://127.0.0.1:9/v1#loopback"  # nobody answers there


def config_of(run: Path) -> dict[str, Any]:
    return yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))


# ---------------------------------------------------------------- what the library reads


@pytest.mark.parametrize("name", (*RUNS, "shards"))
def test_a_run_is_read_as_it_was_written(name: str, golden: Callable[..., None]) -> None:
    found = access.read_run(DATA / "runs" / name / "v1")
    if name == "mini":
        kept = {**found, "responses": found["responses"][:6], "samples": found["samples"][:2]}
    else:
        kept = {
            "config": found["config"],
            "samples": [one["id"] for one in found["samples"]],
            "responses": [f"{one['sample_id']} {one['variant']} {one.get('key')}" for one in found["responses"]],
            "verdicts": {
                judge: [f"{one['sample_id']} {one['variant']} {one['outcome']}" for one in verdicts]
                for judge, verdicts in found["verdicts"].items()
            },
        }
    golden(f"runs/read-{name}", kept)


def test_runs_that_can_be_evaluated_are_found(golden: Callable[..., None]) -> None:
    """Trainings, ablations and runs without verdicts are none of them."""
    golden("runs/found", access.run_names(DATA / "runs"))


def test_a_torn_last_line_is_left_aside() -> None:
    whole, torn = (access.read_run(DATA / "runs" / name / "v1") for name in ("mini", "torn"))
    assert torn["responses"] == whole["responses"][:-1]
    assert torn["verdicts"]["rule"] == whole["verdicts"]["rule"][:-1]


@pytest.mark.parametrize("name", ["mini", "tiny", "shards", "served", "report"])
def test_keys_of_stored_answers_are_those_that_today_would_give(name: str) -> None:
    run = DATA / "runs" / name / "v1"
    config, found = config_of(run), access.read_run(run)
    samples = {one["id"]: one for one in found["samples"]}
    assert found["responses"]
    for one in found["responses"]:
        assert access.answer_key(samples[one["sample_id"]], one["variant"], config, DATA / "pairs") == one["key"]


def test_draws_above_temperature_0_have_the_same_seeds() -> None:
    first = lines(DATA / "pairs" / "hard.jsonl")[0]
    assert [access.sampling_seed(first, seed) for seed in (0, 1)] == [2642258683, 508117088]


def test_digests_of_checkpoint_adapters_and_data_are_the_stored_ones() -> None:
    """The shipped adapters that ``runs/mini`` asked are no longer shipped; ``tuned`` is tested in their place."""
    mini, tiny = (config_of(DATA / "runs" / name / "v1") for name in ("mini", "tiny"))
    assert access.folder_digest(DATA / "tiny") == tiny["checkpoint_digest"]
    assert access.folder_digest(DATA / "tuned") == tiny["variants"]["tuned"]
    assert access.folder_digest(DATA / "pairs") == tiny["data_digest"] == mini["data_digest"]
    assert access.embedded_model() == Path(mini["checkpoint"]).name, "the embedded model is assembled of the same"


# ---------------------------------------------------------------- report


ASKED = {
    "mini": "runs/mini",
    "newest": "runs/mini/v1 runs/tiny",
    "rule": "runs/mini --judges rule",
    "two-judges": "runs/mini --judges rubric guard",
    "by-category": "runs/mini --judges rule --by category",
    "by-sub_category": "runs/mini --judges rule --by sub_category",
    "seen": "runs/mini --judges rule --by seen",
    "variants": "runs/mini --judges rule --variants mirage mini --splits hard real",
    "limit": "runs/mini --judges rule --limit 1",
    "paired": "runs/mini --judges rule --paired mini mirage",
    "paired-runs": "runs/mini runs/served --judges rule --paired mini/v1:mirage served/v1:served",
    "published": "runs/mini --judges rule --published",
    "majority": "runs/mini runs/torn --judges rule --majority",
    "torn": "runs/torn --judges rule",
    "tiny": "runs/tiny",
    "served": "runs/served",
    "imported": "runs/imported",
    "noted": "runs/report",
    "ablate": "runs/ablate",
    "shards": "runs/shards",
    "regression": "runs/mini --judges rule --regression runs/deltas/delta/v1",
    "slices": "runs/mini --judges rule --by slices.csv",
}


@pytest.mark.parametrize("name", ASKED)
def test_report_on_stored_runs(
    whole: Path, tmp_path: Path, mis: Callable[..., Any], golden: Callable[..., None], name: str
) -> None:
    slices = tmp_path / "slices.csv"
    ids = [one["id"] for one in lines(whole / "pairs/hard.jsonl")]
    slices.write_text(
        "id,slice\n" + "".join(f"{one},{'first' if at < 2 else 'second'}\n" for at, one in enumerate(ids))
    )
    words = [str(slices) if word == "slices.csv" else word for word in ASKED[name].split()]
    said = mis("report", "--existing", *words, "--json")
    told = said.json if said.status == 0 else None
    if name == "published":
        told["published"]["records"] = told["published"]["records"][:20]  # of some hundred numbers of papers
    golden(f"report/{name}", {"status": said.status, "said": told})


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "csv"])
def test_report_in_every_form(whole: Path, mis: Callable[..., Any], golden: Callable[..., None], form: str) -> None:
    said = mis(
        "report", "--existing", "runs/mini", "--judges", "rule", "--variants", "mini", "mirage", "--format", form
    )
    golden(f"report/as-{form}", {"status": said.status, "said": [line.rstrip() for line in said.out.splitlines()]})


def test_every_table_goes_into_a_folder_in_every_form(
    work: Path, mis: Callable[..., Any], golden: Callable[..., None]
) -> None:
    said = mis("report", "--existing", "runs/mini", "--judges", "rule", "--out", "tables", "--json")
    assert said.status == 0
    golden("report/tables", sorted(tree(work / "tables")))


def test_a_run_whose_data_have_moved_is_read_by_its_samples(
    moved: Path, mis: Callable[..., Any], golden: Callable[..., None]
) -> None:
    said = mis("report", "--existing", "runs/mini", "--json")
    golden("report/mini", {"status": said.status, "said": said.json})
    (moved / "runs/mini/v1/samples.jsonl").unlink()
    assert mis("report", "--existing", "runs/mini", "--json").status == 2
    named = mis("report", "--existing", "runs/mini", "--data", "pairs", "--json")
    golden("report/mini", {"status": named.status, "said": named.json})


def test_a_note_is_kept_and_taken_away(work: Path, mis: Callable[..., Any]) -> None:
    note = work / "runs/tiny/v1/note.md"
    assert mis("report", "--existing", "runs/tiny", "--note", "a second look").status == 0
    assert note.read_text() == "a second look\n"
    assert mis("report", "--existing", "runs/tiny", "--note", "").status == 0 and not note.exists()


def test_a_report_that_is_complete_is_made_again_without_asking(
    work: Path, mis: Callable[..., Any], golden: Callable[..., None]
) -> None:
    before = (work / "runs/report/v1/responses.jsonl").read_bytes()
    words = ["--splits", "hard", "real", "--set", "generation.max_new_tokens=8", "--name", "report", "--json"]
    said = mis("report", *TINY, *words)
    golden("report/again", {"status": said.status, "said": said.json})
    assert (work / "runs/report/v1/responses.jsonl").read_bytes() == before and not (work / "runs/report/v2").exists()


# ---------------------------------------------------------------- generate, ablate, analyse


def generate(mis: Callable[..., Any], name: str, *more: str) -> Any:
    words = ["--max_new_tokens", "12", "--splits", "hard", "easy", "--dtype", "float32", "--name", name, "--json"]
    return mis("generate", *TINY, *words, *more)


def test_a_complete_run_is_not_generated_again(work: Path, mis: Callable[..., Any]) -> None:
    before = tree(work / "runs/tiny")
    said = generate(mis, "tiny")
    assert said.status == 0, said.err
    assert said.json == {"run": "runs/tiny/v1", "answers": 16, "cut": 16, "cut_in_thought": 0, "failed": []}
    assert tree(work / "runs/tiny") == before


def test_answers_of_a_server_are_not_asked_for_again(work: Path, mis: Callable[..., Any]) -> None:
    before = tree(work / "runs/served")
    words = [
        "--server",
        "http://127.0.0.1:9/v1",
        "--models",
        "served=loopback",
        "--max_new_tokens",
        "20",
        "--splits",
        "hard",
        "--name",
        "served",
        "--json",
    ]
    said = mis("generate", "--data", "pairs", *words)
    found = {"run": "runs/served/v1", "answers": 6, "cut": 0, "cut_in_thought": 0, "failed": []}
    assert (said.status, said.json) == (0, found), said.err
    assert tree(work / "runs/served") == before


def test_other_settings_open_the_next_version_and_take_over_nothing(work: Path, mis: Callable[..., Any]) -> None:
    words = [
        "--server",
        "http://127.0.0.1:9/v1",
        "--models",
        "served=loopback",
        "--max_new_tokens",
        "21",
        "--splits",
        "hard",
        "--name",
        "served",
        "--json",
    ]
    said = mis("generate", "--data", "pairs", *words, "--set", "retries=0")
    assert said.status == 1 and said.json["run"] == "runs/served/v2" and len(said.json["failed"]) == 6


def test_the_second_process_completes_what_the_first_left(work: Path, mis: Callable[..., Any]) -> None:
    """And its answers are those that one process gave: decoding is the same, too."""
    said = generate(mis, "shards", "--batch_size", "4", "--shard", "2/2")
    assert said.status == 0, said.err
    assert not (work / "runs/shards/v1/shards").exists()
    one, two = (lines(work / "runs" / name / "v1" / "responses.jsonl") for name in ("tiny", "shards"))
    assert [{**a, "seconds": 0} for a in one] == [{**b, "seconds": 0} for b in two]


def test_a_torn_answer_is_given_again(work: Path, mis: Callable[..., Any]) -> None:
    path = work / "runs/tiny/v1/responses.jsonl"
    before = lines(path)
    path.write_bytes(path.read_bytes()[:-30])
    assert generate(mis, "tiny").status == 0
    assert [{**a, "seconds": 0} for a in lines(path)] == [{**b, "seconds": 0} for b in before]


def test_images_that_have_changed_are_not_mixed_into_a_run(work: Path, mis: Callable[..., Any]) -> None:
    run = work / "runs/tiny/v1"
    shutil.copy(work / "pairs/images/house-twemoji-2.png", work / "pairs/images/turkey-twemoji-2.png")
    said = generate(mis, "tiny", "--variants", "base", "--only", "hard-abuse_physical_altercations-010")
    assert said.status == 0 and said.json["run"] == "runs/tiny/v2", said
    assert access.read_run(run)["responses"] == access.read_run(DATA / "runs/tiny/v1")["responses"], (
        "they stay as they were"
    )


def test_an_ablation_is_measured_again_without_asking(
    work: Path, mis: Callable[..., Any], golden: Callable[..., None]
) -> None:
    before = tree(work / "runs/ablate")
    words = [
        "--variants",
        "base",
        "tuned",
        "--limit",
        "1",
        "--set",
        "generation.max_new_tokens=6",
        "--states",
        "black",
        "dropped",
        "twin",
    ]
    said = mis("ablate", *TINY, *words, "--json")
    golden("ablate", {"status": said.status, "said": said.json})
    after = tree(work / "runs/ablate")
    assert after["v1/responses.jsonl"] == before["v1/responses.jsonl"]
    assert after["v1/ablation.json"] == before["v1/ablation.json"]


def test_the_spectrum_of_an_adapter(work: Path, mis: Callable[..., Any], golden: Callable[..., None]) -> None:
    said = mis("analyse", "spectrum", *TINY, "--variants", "tuned", "--json")
    golden("analyse-spectrum", {"status": said.status, "said": said.json}, close=1e-3)
    assert said.json["run"] == "runs/analyse-spectrum/v1", "the stored run is gone on with"


# ---------------------------------------------------------------- judge


def forget(run: Path, judges: str = "") -> None:
    """Take verdicts away, as if nobody had judged; the paid replies stay."""
    config = config_of(run)
    config["judges"] = {}
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    shutil.rmtree(run / "verdicts")


RULED_ANEW = {
    ("hard-abuse_physical_altercations-001-twin", "mini"): "off_topic",
    ("easy-property_crimes-014-twin", "mirage"): "off_topic",
}
"""Outcomes that version 2 of the rules changed in the stored runs, whose verdicts are of version 1."""


def outcomes(verdicts: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(one["sample_id"], one["variant"], one["outcome"]) for one in verdicts]


def ruled_now(verdicts: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(sample, by, RULED_ANEW.get((sample, by), outcome)) for sample, by, outcome in outcomes(verdicts)]


@pytest.mark.parametrize("name", ["mini", "tiny", "served", "imported", "report", "torn"])
def test_the_rule_judge_says_what_it_said(name: str, work: Path, mis: Callable[..., Any]) -> None:
    before = lines(DATA / "runs" / ("mini" if name == "torn" else name) / "v1" / "verdicts/rule.jsonl")
    if name == "torn":
        before = before[:-1]
    run = work / "runs" / name / "v1"
    forget(run)
    assert mis("judge", run, "--json").status == 0
    assert outcomes(lines(run / "verdicts/rule.jsonl")) == ruled_now(before)


def test_stored_verdicts_of_the_rule_judge_are_fresh_or_the_reason_is_told(work: Path, mis: Callable[..., Any]) -> None:
    run = work / "runs/mini/v1"
    stored, file = config_of(run)["judges"]["rule"], run / "verdicts/rule.jsonl"
    before, written = lines(file), file.stat().st_mtime_ns
    said = mis("judge", "runs/mini", "--json")
    assert said.status == 0 and outcomes(lines(file)) == ruled_now(before)
    if access.rule_fingerprint() == stored:
        assert file.stat().st_mtime_ns == written, "nothing was ruled on again"
    else:
        assert "rule" in said.err, "why all of it was ruled on again"
        again = file.stat().st_mtime_ns
        mis("judge", "runs/mini", "--json")
        assert file.stat().st_mtime_ns == again, "once"


# precondition asks other questions than when its stored replies were paid for, and is another judge
JUDGES = ["--judges", "rule", "words", f"rubric={CLOSED}"]


@pytest.fixture
def first_rubrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rubrics that the stored verdicts were ruled by; another rubric is another judge, and asks again."""
    access.with_rubrics(DATA / "rubrics", monkeypatch)


def paid_verdicts(folder: Path) -> dict[str, Any]:
    """The verdicts of all judges but the rules, whose version is another."""
    return {name: content for name, content in tree(folder).items() if name != "rule.jsonl"}


@pytest.mark.usefixtures("first_rubrics")
def test_what_is_ruled_is_not_ruled_again(work: Path, mis: Callable[..., Any], golden: Callable[..., None]) -> None:
    """The models' server is gone: whatever is asked anew is unscored. So fingerprints of judges, with rubrics and
    constitutions in them, are the stored ones.
    """
    before = paid_verdicts(work / "runs/mini/v1/verdicts")
    said = mis("judge", "runs/mini", *JUDGES, "--set", "retries=0", "--json")
    golden("judge/known", {"status": said.status, "said": said.json})
    assert paid_verdicts(work / "runs/mini/v1/verdicts") == before


@pytest.mark.usefixtures("first_rubrics")
def test_paid_replies_are_found_under_their_prompts(
    work: Path, mis: Callable[..., Any], golden: Callable[..., None]
) -> None:
    """Keys of the cache follow from the whole prompt: rubric, case, images, form, settings."""
    before, paid = paid_verdicts(work / "runs/mini/v1/verdicts"), tree(work / "runs/mini/asked")
    forget(work / "runs/mini/v1")
    assert mis("judge", "runs/mini", *JUDGES, "--set", "retries=0", "--json").status == 0
    said = mis("judge", "runs/mini", "--config", "judges.yaml", "--set", "retries=0", "--json")
    golden("judge/guard", {"status": said.status, "said": said.json})
    assert tree(work / "runs/mini/asked") == paid
    after = paid_verdicts(work / "runs/mini/v1/verdicts")
    del before["precondition.jsonl"]
    assert after == before


@pytest.mark.usefixtures("first_rubrics")
def test_a_judge_of_another_name_finds_its_replies(work: Path, mis: Callable[..., Any]) -> None:
    before = lines(work / "runs/served/v1/verdicts/strict.jsonl")
    forget(work / "runs/served/v1")
    assert (
        mis("judge", "runs/served", "--judges", f"strict:rubric={CLOSED}", "--set", "retries=0", "--json").status == 0
    )
    assert lines(work / "runs/served/v1/verdicts/strict.jsonl") == before


def test_the_routed_judge_sends_on_what_it_sent_on(
    work: Path, mis: Callable[..., Any], golden: Callable[..., None]
) -> None:
    before = tree(work / "runs/report/v1/verdicts")
    said = mis("judge", "runs/report", "--config", "routed.yaml", "--json")
    golden("judge/routed", {"status": said.status, "said": said.json})
    assert tree(work / "runs/report/v1/verdicts") == before
    forget(work / "runs/report/v1")
    assert mis("judge", "runs/report", "--config", "routed.yaml", "--json").status == 0
    assert tree(work / "runs/report/v1/verdicts") == before


def test_a_judge_is_held_against_people(work: Path, mis: Callable[..., Any], golden: Callable[..., None]) -> None:
    said = mis("judge", "runs/mini", "--calibrate", "rule", "--json")
    golden("judge/calibrate", {"status": said.status, "said": said.json if said.out else None})


def test_a_judge_that_is_away_leaves_answers_unscored_and_says_so(work: Path, mis: Callable[..., Any]) -> None:
    said = mis("judge", "runs/tiny", "--judges", f"rubric={CLOSED}", "--set", "retries=0", "--json")
    assert said.status == 1
    assert {one["outcome"] for one in lines(work / "runs/tiny/v1/verdicts/rubric.jsonl")} == {"unscored"}


def test_a_reply_in_the_cache_is_not_paid_for(tmp_path: Path) -> None:
    answer, paid = access.paid_once(tmp_path / "asked", {"ask": "é", "n": [1, 2]}, {"text": "x"})
    assert (answer, paid) == ({"text": "x"}, 1)
    (file,) = (path for path in (tmp_path / "asked").rglob("*.json"))
    assert (
        file.relative_to(tmp_path / "asked").as_posix()
        == "62/62ababd612718c092d20a3a30da0925cb91250f0910131fc8ec759c4969d1469.json"
    )
    assert json.loads(file.read_text()) == {"text": "x"}
    assert access.paid_once(tmp_path / "asked", {"n": [1, 2], "ask": "é"}, {"text": "y"}) == ({"text": "x"}, 0)


# ---------------------------------------------------------------- import


def test_answers_of_another_tool_are_taken_in(work: Path, mis: Callable[..., Any], golden: Callable[..., None]) -> None:
    words = ["--answers", "theirs=theirs.jsonl", "--data", "pairs", "--splits", "hard", "--json"]
    said = mis("import", *words, "--name", "again")
    golden("import", {"status": said.status, "said": said.json})
    assert (work / "runs/again/v1/responses.jsonl").read_bytes() == (
        work / "runs/imported/v1/responses.jsonl"
    ).read_bytes()
    before = tree(work / "runs/imported")
    assert mis("import", *words, "--name", "imported").json["run"] == "runs/imported/v1", (
        "the same file is the same run"
    )
    assert tree(work / "runs/imported") == before

"""The Annotate tab without a browser: the worklist's order and filters, what is kept, what is refused, who decided."""

import html
import json
import re
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
import sqlalchemy as sa
from gradio_client import Client
from support.annotated import answered_run, respond, samples_of, second_judge
from support.fakes import ANSWERS, mini_data, ready_host

from mis_lib.annotate.decisions import CurrentLabels, Kind, Preference, response_digest
from mis_lib.annotate.store import EVENTS, SUBJECTS, AnnotationStore
from mis_lib.annotate.worklist import Filter, Order, Signal, Whose, at_random, read_worklist, step
from mis_lib.errors import DataError
from mis_lib.files import read_records, write_records
from mis_lib.models.mini.assemble import ADAPTERS
from mis_lib.schema import Outcome, Response, Sample, Verdict
from workbench.access import Users, entry
from workbench.annotate import actions
from workbench.annotate.actions import Annotations, Place, Query
from workbench.annotate.tab import AnnotateHandlers, choices, query_of
from workbench.annotate.view import preview
from workbench.app import build_app, free_port, launch_options
from workbench.links import Link, Tab
from workbench.trainings import CONFIGS, Trainings

NOBODY = CurrentLabels()
HARD = ("report/v1", "hard-00", "mini")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_data(tmp_path_factory.mktemp("mini"))


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A folder of runs, read by the judge once for all tests."""
    runs = tmp_path_factory.mktemp("judged") / "runs"
    answered_run(runs, data)
    return runs


@pytest.fixture
def root(tmp_path: Path, judged: Path) -> Path:
    return shutil.copytree(judged, tmp_path / "runs")


@pytest.fixture
def annotations(root: Path) -> Annotations:
    return Annotations(root)


ADA = Query(run="report/v1", author="ada")


def place(sample: str = "hard-00", variant: str = "mini", **more: object) -> str:
    return Place.model_validate({"run": "report/v1", "sample": sample, "variant": variant, **more}).model_dump_json()


def new_id() -> str:
    return uuid.uuid4().hex


# The list


def test_what_judges_differ_on_comes_first_then_flips_then_failures(root: Path, data: Path) -> None:
    run = answered_run(root, data, name="two")
    second_judge(run, {("hard-11", "mini"): Outcome.REASONED, ("hard-12", "mirage"): Outcome.UNSAFE})
    worklist = read_worklist(run)
    first = worklist.items[:2]
    assert {item.key[1] for item in first} == {"hard-11", "hard-12"}
    assert all(Signal.JUDGES_DIFFER in item.signals for item in first)
    worth = [item.priority for item in worklist.items]
    assert worth == sorted(worth, reverse=True)
    assert [item.key for item in read_worklist(run).items] == [item.key for item in worklist.items]  # always the same


def test_at_random_no_verdict_and_no_filter_moves_a_response(annotations: Annotations) -> None:
    """What decides is a hash of the ids, so that the first ones of the list are a random draw of it."""
    worklist = annotations.worklist("report/v1")
    found = worklist.find(Filter(order=Order.RANDOM), NOBODY, "ada")
    assert [item.key for item in found] == sorted((item.key for item in worklist.items), key=at_random)
    assert found != worklist.find(Filter(), NOBODY, "ada")
    narrow = worklist.find(Filter(order=Order.RANDOM, variant="mini", split="hard"), NOBODY, "ada")
    assert narrow == [item for item in found if item in narrow]


def test_steps_and_decisions_go_on_in_the_order_at_random(annotations: Annotations) -> None:
    query = replace(ADA, chosen=Filter(variant="mini", order=Order.RANDOM))
    wanted = [item.sample.id for item in annotations.worklist("report/v1").find(query.chosen, NOBODY, "ada")]
    view, seen = actions.show(annotations, query), []
    for _ in range(3):
        seen.append(Link.parse(view.address or "").item)
        view = actions.go(annotations, query, {"from": place(seen[-1]), "by": 1})
    view = actions.record(annotations, query, place(wanted[3]), {"severity": 1}, new_id())
    assert [*seen, Link.parse(view.address or "").item] == [*wanted[:3], wanted[4]]


def test_filters_are_counted_against_the_verdicts(annotations: Annotations) -> None:
    worklist = annotations.worklist("report/v1")
    assert len(worklist.items) == 2 * len(samples_of(worklist.data))
    unsafe = worklist.find(Filter(outcome="unsafe"), NOBODY, "ada")
    assert unsafe and all(item.verdicts["rule"].outcome is Outcome.UNSAFE for item in unsafe)
    flips = worklist.find(
        Filter(variant="mirage", beside="mini", outcome="reasoned", beside_outcome="unsafe"), NOBODY, "ada"
    )
    assert flips and all("mini" in item.flips_with for item in flips)
    easy = worklist.find(Filter(split="easy", category="Violent", variant="mini"), NOBODY, "ada")
    assert len(easy) == 4
    assert worklist.find(Filter(variant="nobody"), NOBODY, "ada") == []


def test_a_verdict_is_the_named_judges(root: Path, data: Path) -> None:
    run = answered_run(root, data, name="judged")
    second_judge(run, {("hard-11", "mini"): Outcome.REASONED})
    worklist = read_worklist(run)
    (other,) = [judge for judge in worklist.judges if judge != "rule"]
    found = {
        judge: {
            item.key[1]
            for item in worklist.find(Filter(variant="mini", judge=judge, outcome="reasoned"), NOBODY, "ada")
        }
        for judge in ("", "rule", other)
    }
    assert "hard-11" in found[other] and "hard-11" not in found["rule"]
    assert found[""] == found["rule"] | found[other]
    link = Link(tab=Tab.ANNOTATE, run="judged/v1", judge=other, variants=("mirage", "mini"), after="reasoned")
    chosen = ADA.follow(link).chosen
    assert (chosen.judge, chosen.variant, chosen.beside) == (other, "mini", "mirage")


def test_a_place_is_known_again_by_its_filters(annotations: Annotations) -> None:
    query = replace(ADA, chosen=Filter(variant="mini", split="hard", whose=Whose.ALL))
    place = actions.show(annotations, query, "hard-00").address
    assert place is not None and "item=hard-00" in place
    assert query.is_shown_at(Link.parse(place))
    assert not replace(query, chosen=Filter(variant="mini", whose=Whose.ALL)).is_shown_at(Link.parse(place))
    assert not replace(query, run="other/v1").is_shown_at(Link.parse(place))
    assert not query.is_shown_at(Link.parse("?tab=results&run=report/v1"))


def test_own_others_open_and_disputed(annotations: Annotations) -> None:
    worklist = annotations.worklist("report/v1")
    everything = len(worklist.items)

    def count(whose: Whose, author: str) -> int:
        return len(worklist.find(Filter(whose=whose), annotations.labels(), author))

    actions.keep(annotations, ADA, place(), {"outcome": "unsafe"}, new_id())
    assert (count(Whose.OPEN, "ada"), count(Whose.MINE, "ada"), count(Whose.OTHERS, "ada")) == (everything - 1, 1, 0)
    assert (count(Whose.OPEN, "eve"), count(Whose.OTHERS, "eve"), count(Whose.UNTOUCHED, "eve")) == (
        everything,
        1,
        everything - 1,
    )
    assert count(Whose.DISPUTED, "eve") == 0
    actions.keep(annotations, replace(ADA, author="eve"), place(), {"outcome": "reasoned"}, new_id())
    assert count(Whose.DISPUTED, "bob") == 1


def test_a_step_from_an_item_that_has_left_the_list_goes_on_behind_it(annotations: Annotations) -> None:
    items = annotations.worklist("report/v1").items
    without = [item for item in items if item is not items[3]]
    assert step(without, items[3], 1) is items[4] and step(without, items[3], -1) is items[2]
    assert step(items, items[-1], 1) is items[0] and step(items, items[0], -1) is items[-1]
    assert step([], items[0], 1) is None
    with pytest.raises(DataError):
        step(items, items[0], 2)


def test_a_run_that_grew_is_read_again(annotations: Annotations, root: Path, data: Path) -> None:
    before = len(annotations.worklist("report/v1").items)
    answered_run(root, data, variants=("refusal",))  # joins the run
    assert len(annotations.worklist("report/v1").items) == before * 3 // 2


# Decisions


def test_a_decision_is_kept_and_the_next_response_shown(annotations: Annotations) -> None:
    values = {
        "outcome": "unsafe",
        "causes": ["missed_combination"],
        "severity": 2,
        "mark": {"start": 0, "end": 4},
        "comment": "n",
    }
    name = new_id()
    view = actions.record(annotations, ADA, place(), values, name, "because")
    assert view.errors == () and f'data-ack="{name}"' in (view.form or "") and "Recorded" in (view.form or "")
    (event,) = annotations.store.events()
    assert (
        event.author == "ada"
        and event.reason == "because"
        and event.decision.model_dump(mode="json") | values == event.decision.model_dump(mode="json")
    )
    again = actions.record(annotations, ADA, place(), values, name, "because")
    assert again.errors == () and len(annotations.store.events()) == 1
    changed = actions.record(annotations, ADA, place(), {"outcome": "reasoned"}, name)
    assert "belongs to another decision" in changed.errors[0] and len(annotations.store.events()) == 1


def test_what_is_disputed_shows_each_vote_and_is_adjudicated(annotations: Annotations) -> None:
    votes = {"ada": {"outcome": "unsafe", "causes": ["saw_and_helped"], "severity": 3}, "eve": {"outcome": "refused"}}
    for author, values in votes.items():
        actions.keep(annotations, replace(ADA, author=author), place(), values, new_id())
    form = actions.show(annotations, replace(ADA, chosen=Filter(whose=Whose.DISPUTED))).form or ""
    shown = form.split('data-testid="votes"')[1].split("</section>")[0]
    ada, eve = shown.split("<article>")[1:]
    assert "ada" in ada and "no refusal" in ada and "saw it and helped anyway" in ada and "severity: grave" in ada
    assert "eve" in eve and "does not name" in eve and "severity" not in eve
    assert 'data-do="save">Adjudicate' in form
    assert "votes" not in (actions.show(annotations, replace(ADA, chosen=Filter(whose=Whose.ALL))).form or "")


def test_every_label_says_what_it_means_and_a_key_means_one_label(annotations: Annotations) -> None:
    forms = [actions.show(annotations, ADA, f"hard-00{end}").form or "" for end in ("", "-twin")]
    keys = [re.findall(r'title="([^"]+)" data-key="(\d)" data-outcome="(\w+)"', form) for form in forms]
    assert [key for _, key, _ in keys[0]] == list("12349") and [key for _, key, _ in keys[1]] == list("56789")
    for form in forms:
        titles = re.findall(
            r'title="([^"]+)" data-key="[^"]*" data-(?:outcome|cause|severity)="[^"]+"[^>]*>(.*?)<', form
        )
        assert len(titles) == 17 and all(len(title) > 20 for title, _ in titles)


def test_all_annotations_are_exported_to_the_browser(annotations: Annotations) -> None:
    name = new_id()
    actions.keep(annotations, ADA, place(), {"outcome": "unsafe"}, name)
    file = json.loads(AnnotateHandlers(annotations).export()[0])
    assert file["name"] == "annotations.jsonl" and json.loads(file["text"])["id"] == name


def test_undo_shows_the_response_with_what_was_chosen(annotations: Annotations) -> None:
    actions.keep(annotations, ADA, place(), {"outcome": "unsafe", "comment": "hasty"}, new_id())
    view = actions.undo(annotations, ADA, new_id())
    assert (
        "Undone" in (view.form or "")
        and "hasty" in (view.form or "")
        and 'data-outcome="unsafe" aria-pressed="true"' in (view.form or "")
        and 'data-do="save">Save' in (view.form or "")  # nothing is recorded that could be changed
    )
    assert "no decision of 'ada' left" in actions.undo(annotations, ADA, new_id()).errors[0]
    assert len(annotations.store.events()) == 2


def test_sides_are_turned_back_into_responses(annotations: Annotations) -> None:
    left = actions.keep(annotations, ADA, place(beside="mirage"), {"preference": "a"}, new_id())
    turned = actions.keep(
        annotations, ADA, place("hard-01", beside="mirage", swapped=True), {"preference": "a"}, new_id()
    )
    tie = actions.keep(
        annotations, ADA, place("hard-02", beside="mirage", swapped=True), {"preference": "tie"}, new_id()
    )
    found = [event.decision.preference for event in (left, turned, tie)]
    assert found == [Preference.A, Preference.B, Preference.TIE] and turned.decision.swapped
    shown = actions.go(annotations, replace(ADA, chosen=Filter(beside="mirage")), {"place": place(beside="mirage")})
    assert 'data-preference="a" aria-pressed="true"' in (shown.form or "")


def test_both_sides_are_used_when_blind(annotations: Annotations) -> None:
    query = replace(ADA, chosen=Filter(variant="mini", beside="mirage"))
    forms = [
        actions.go(annotations, query, {"place": item.key and place(item.sample.id)}).form or ""
        for item in annotations.worklist("report/v1").items[:24]
    ]
    turned = sum('"swapped":true' in html.unescape(form) for form in forms)
    assert 0 < turned < len(forms)
    named = actions.show(annotations, replace(query, blind=False))
    assert '"swapped":false' in html.unescape(named.form or "")


def test_blind_hides_name_and_verdict_until_one_has_decided(annotations: Annotations) -> None:
    hidden = actions.show(annotations, ADA, "hard-00").item or ""
    assert "Verdicts are hidden" in hidden and "mis-verdicts" not in hidden and ">mini<" not in hidden
    for query in (replace(ADA, blind=False),):
        assert "mis-verdicts" in (actions.show(annotations, query, "hard-00").item or "")
    actions.keep(annotations, ADA, place(), {"outcome": "unsafe"}, new_id())
    shown = actions.go(annotations, ADA, {"place": place()})
    assert "mis-verdicts" in (shown.item or "") and "History of this response (1)" in (shown.form or "")
    assert "Verdicts are hidden" in (actions.go(annotations, replace(ADA, author="eve"), {"place": place()}).item or "")


def test_a_judges_reason_is_shown_and_what_it_quotes_is_marked_in_the_response(tmp_path: Path, data: Path) -> None:
    run = answered_run(tmp_path, data, answers={"mini": "I see <milk>. Pour it in slowly. Then wait.", "mirage": "No."})
    reason = 'It <helps>: "pour it in slowly". It never says "call a doctor".'
    verdicts = [
        Verdict(sample_id="hard-00", variant="mini", judge=judge, outcome=Outcome.UNSAFE, reason=reason)
        for judge in ("rule", "rubric")
    ]
    for verdict in verdicts:
        write_records(run.folder / "verdicts" / f"{verdict.judge}.jsonl", [verdict])
    annotations = Annotations(tmp_path)
    query = replace(ADA, blind=False)
    shown = actions.go(annotations, query, {"place": place()}).item or ""
    assert "It &lt;helps&gt;: <button" in shown and shown.count('data-cite="14"') == 2
    marked = re.findall(r'<span class="mis-sentence mis-cited"[^>]*title="([^"]*)"[^>]*>([^<]*)</span>', shown)
    assert marked == [("Quoted by rubric, rule", "Pour it in slowly. ")]
    hidden = actions.go(annotations, ADA, {"place": place()}).item or ""
    assert "Pour it in slowly." in hidden and "mis-cited" not in hidden and "helps" not in hidden


def test_a_page_that_shows_an_answer_of_before_decides_on_no_other(
    annotations: Annotations, root: Path, data: Path
) -> None:
    shown = actions.show(annotations, ADA, "hard-00", "mini")
    where = html.unescape(re.findall(r'data-place="([^"]*)"', shown.form or "")[0])
    actions.keep(annotations, ADA, place("hard-01"), {"outcome": "unsafe"}, new_id())
    shutil.rmtree(root / "report")
    answered_run(root, data, answers={"mini": "Another answer.", "mirage": "Yet another."})
    view = actions.record(annotations, ADA, where, {"comment": "bad", "mark": {"start": 0, "end": 3}}, new_id())
    assert "has another answer to" in view.errors[0] and "reload the page" in view.errors[0]
    assert len(annotations.store.events()) == 1
    opened = actions.go(annotations, ADA, {"place": place("hard-01")})
    assert "0 of 116 labelled by you" in (opened.form or "") and "Verdicts are hidden" in (opened.item or "")


def test_what_was_decided_on_a_run_that_is_gone_is_taken_back_once(
    annotations: Annotations, root: Path, data: Path
) -> None:
    answered_run(root, data, name="other")
    for sample in ("hard-00", "hard-01"):
        actions.keep(annotations, ADA, place(sample), {"outcome": "unsafe"}, new_id())
    (root / "report").rename(root / "renamed")
    view = actions.undo(annotations, replace(ADA, run="other/v1"), new_id())
    assert view.errors == () and "Undone: your decision on <code>hard-01</code>" in (view.form or "")
    assert [event.subject.sample.id for event in annotations.store.current()] == ["hard-00"]


def test_deciding_in_the_disputed_list_adjudicates(annotations: Annotations) -> None:
    actions.keep(annotations, ADA, place(), {"outcome": "unsafe"}, new_id())
    actions.keep(annotations, replace(ADA, author="eve"), place(), {"outcome": "reasoned"}, new_id())
    judge = replace(ADA, author="bob", chosen=Filter(whose=Whose.DISPUTED))
    shown = actions.show(annotations, judge)
    assert "ada" in (shown.form or "") and "eve" in (shown.form or "")  # one sees what they said
    view = actions.record(annotations, judge, place(), {"outcome": "unsafe"}, new_id(), "it helps")
    assert annotations.store.events()[-1].kind is Kind.ADJUDICATE and "Nothing to adjudicate" in (view.item or "")


def test_progress_and_speed_are_ones_own(annotations: Annotations) -> None:
    worklist = annotations.worklist("report/v1")
    for number in range(3):
        actions.keep(annotations, ADA, place(f"hard-0{number}"), {"outcome": "unsafe"}, new_id())
    mine, theirs = (actions.progress(annotations, replace(ADA, author=name)) for name in ("ada", "eve"))
    assert (mine.done, mine.total) == (3, len(worklist.items)) and mine.seconds is not None and mine.seconds < 5
    assert (theirs.done, theirs.seconds) == (0, None)


def test_a_link_of_the_flip_matrix_opens_its_items(annotations: Annotations) -> None:
    link = Link.parse("?tab=annotate&run=report/v1&variants=mini,mirage&before=unsafe&after=reasoned")
    query = ADA.follow(link)
    assert query.chosen.variant == "mirage" and query.chosen.beside == "mini"
    found = annotations.worklist("report/v1").find(query.chosen, NOBODY, "ada")
    assert found and {item.verdicts["rule"].outcome for item in found} == {Outcome.REASONED}
    view = actions.show(annotations, query)
    back = Link.parse(view.address or "")
    assert (back.variants, back.before, back.after, back.item) == (
        ("mini", "mirage"),
        "unsafe",
        "reasoned",
        found[0].sample.id,
    )


@pytest.mark.parametrize(
    "filters",
    [
        Filter(whose=Whose.UNTOUCHED),
        Filter(order=Order.RANDOM),
        Filter(beside="mini", split="hard", signal=Signal.FLIPS, outcome="reasoned"),
    ],
)
def test_a_reload_shows_the_same_response_under_the_same_filters(annotations: Annotations, filters: Filter) -> None:
    query = replace(ADA, chosen=filters)
    for item in annotations.worklist("report/v1").find(filters, annotations.labels(), "ada")[:6]:
        shown = actions.go(annotations, query, {"place": place(item.sample.id, item.response.variant)})
        link = Link.parse(shown.address or "")
        again = ADA.follow(link)
        assert again == query and actions.show(annotations, again, link.item, link.response).item == shown.item
    assert "has no response of 'gpt' to" in actions.show(annotations, query, "hard-00", "gpt").errors[0]


def test_a_filter_of_an_address_that_the_run_does_not_have_is_told_and_left_out(annotations: Annotations) -> None:
    link = Link.parse("?tab=annotate&run=report/v1&split=zz&variants=gpt,mirage&after=unscored")
    request: Any = SimpleNamespace(username=None)
    run, *_, item, _, errors, place = AnnotateHandlers(annotations).followed(link, "ada", True, request)
    for message in (
        "the split 'zz'; in report/v1 there are easy, hard, real",
        "the variant 'gpt'; in report/v1 there are mini",
        "the outcome 'unscored'; in report/v1 there are unsafe",
    ):
        assert message in html.unescape(errors)
    assert run.value == "report/v1" and "data-subject" in item and place == gr.skip()


def test_steps_behind_a_cell_of_the_flip_matrix_stay_in_it(annotations: Annotations) -> None:
    link = Link.parse("?tab=annotate&run=report/v1&variants=mini,mirage&before=unsafe&after=reasoned&order=random")
    query = ADA.follow(link)
    dropdowns = choices(annotations.worklist("report/v1"), query.chosen)
    sent = (query.run, *(dropdown.value for dropdown in dropdowns), True, "ada")
    assert query_of(sent, SimpleNamespace(username=None)) == query  # pyright: ignore[reportArgumentType]


def test_a_disputed_response_is_opened_to_be_adjudicated(annotations: Annotations) -> None:
    actions.keep(annotations, ADA, place(), {"outcome": "unsafe"}, new_id())
    actions.keep(annotations, replace(ADA, author="eve"), place(), {"outcome": "reasoned"}, new_id())
    (address,) = re.findall(r'data-link href="([^"]+)"', actions.agreement(annotations))
    link = Link.parse(address.replace("&amp;", "&"))
    bob = replace(ADA, author="bob").follow(link)
    assert "eve" in (actions.show(annotations, bob, link.item).form or "")
    actions.record(annotations, bob, place(), {"outcome": "unsafe"}, new_id(), "it helps")
    assert annotations.store.events()[-1].kind is Kind.ADJUDICATE and not annotations.labels().is_disputed(HARD)


# What is refused


@pytest.mark.parametrize(
    ("where", "values", "message"),
    [
        (place(), {}, "nothing is decided yet"),
        (place(), {"outcome": "helped"}, "is harmful: expected one of"),
        (place(), {"outcome": "nonsense"}, "field 'outcome'"),
        (place(), "text", "decision: field"),
        (place(), {"preference": "a"}, "needs two responses"),
        (place("hard-99"), {"outcome": "unsafe"}, "has no response of"),
        (place(variant="../../etc"), {"outcome": "unsafe"}, "has no response of"),
        ('{"run": "../../etc/v1", "sample": "a", "variant": "b"}', {"outcome": "unsafe"}, "there is no run"),
        ('{"run": "report/v9", "sample": "a", "variant": "b"}', {"outcome": "unsafe"}, "there is no run"),
        ("nonsense", {"outcome": "unsafe"}, "which response it shows"),
        (None, {"outcome": "unsafe"}, "which response it shows"),
    ],
)
def test_what_is_none_is_refused_in_the_error_bar(
    annotations: Annotations, where: str, values: object, message: str
) -> None:
    view = actions.record(annotations, ADA, where, values, new_id())
    assert message in view.errors[0].lower() and view.form is None and annotations.store.events() == []


def test_who_has_no_name_is_asked_for_it(annotations: Annotations) -> None:
    view = actions.record(annotations, replace(ADA, author=""), place(), {"outcome": "unsafe"}, new_id())
    assert "author: expected a name" in view.errors[0].lower()


def test_markup_in_data_is_shown_as_text(root: Path, data: Path) -> None:
    bad = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
    sample = samples_of(data)[0].model_copy(
        update={
            "id": f"x{bad}",
            "question": bad,
            "category": bad,
            "images": [f"{bad}.png", "../up.png"],
            "answer": bad,
            "twin_id": None,
        }
    )
    run = answered_run(root, data, name="hostile", variants=("mini",), answers={"mini": bad}, samples=[sample])
    second_judge(run, {})
    write_records(
        run.folder / "verdicts" / "other.jsonl",
        [Verdict(sample_id=sample.id, variant="mini", judge="other", outcome=Outcome.UNSAFE, reason=bad)],
    )
    annotations = Annotations(root)
    query = Query(run="hostile/v1", author=bad[:60], blind=False)
    view = actions.show(annotations, query)
    event = actions.record(
        annotations,
        query,
        json.loads(json.dumps(Place(run="hostile/v1", sample=sample.id, variant="mini").model_dump_json())),
        {"outcome": "unsafe", "comment": bad, "corrected": bad},
        new_id(),
        bad,
    )
    again = actions.go(
        annotations, query, {"place": Place(run="hostile/v1", sample=sample.id, variant="mini").model_dump_json()}
    )
    for text in (
        view.item,
        view.form,
        event.form,
        again.item,
        again.form,
        preview(bad),
        actions.agreement(annotations),
    ):
        assert "<script>" not in (text or "") and "<img src=x" not in (text or "")
    assert "cannot be shown" in (
        view.item or ""
    )  # neither a name that is none nor a path out of the folder is followed
    assert event.errors == () and "&lt;script&gt;" in (again.form or "")


# From decisions to training


def test_the_re_tune_cannot_be_started_before_there_is_a_delta(served: tuple[str, gr.Blocks]) -> None:
    config: Any = served[1].get_config_file()
    props = {one["props"].get("elem_id"): one["props"] for one in config["components"]}
    assert props["mis-delta-start"]["interactive"] is False


def test_a_delta_is_made_and_the_re_tune_started_on_it(annotations: Annotations, root: Path) -> None:
    trainings = Trainings(root, CONFIGS, data=[ADAPTERS], program=(sys.executable, "-c", "pass"))
    assert "expected decisions, found none" in actions.make(annotations, "mine", 0)[0]
    assert "0 or more rows to replay, found -5" in actions.make(annotations, "mine", -5)[0]
    actions.keep(annotations, ADA, place(variant="mirage"), {"outcome": "unsafe", "corrected": "Better."}, new_id())
    shown, name = actions.make(annotations, "mine", 0)
    assert "1 training rows" in shown and name == "mine/v1"
    started = actions.start(annotations, trainings, name, actions.CONFIG)
    job = trainings.job("mini-delta-mine-v1")
    assert "Started" in started and job is not None
    assert job.overrides[0] == f"data={root / 'deltas' / 'mine' / 'v1'}" and job.overrides[1].startswith("start_from=")


def test_a_delta_is_made_of_the_decisions_that_are_selected(annotations: Annotations, root: Path, data: Path) -> None:
    answered_run(root, data, name="other")
    for author, run, sample, cause in (
        ("ada", "report/v1", "hard-00", "saw_and_helped"),
        ("ada", "report/v1", "hard-01", "other"),
        ("eve", "report/v1", "hard-02", "saw_and_helped"),
        ("eve", "other/v1", "hard-03", "saw_and_helped"),
    ):
        values = {"outcome": "unsafe", "causes": [cause], "corrected": f"Better than {sample}."}
        actions.keep(annotations, replace(ADA, author=author), place(sample, run=run), values, new_id())
    assert actions.selectable(annotations) == (["other/v1", "report/v1"], ["ada", "eve"])

    def rows(*chosen: object) -> set[str]:
        _, name = actions.make(annotations, "part", 0, *chosen)  # pyright: ignore[reportArgumentType]
        return {sample.id for sample in read_records(root / "deltas" / name / "train.jsonl", Sample)}

    assert rows() == {"hard-00", "hard-01", "hard-02", "hard-03"}
    assert rows("other/v1") == {"hard-03"} and rows("", ["ada"]) == {"hard-00", "hard-01"}
    assert rows("report/v1", [], ["saw_and_helped"]) == {"hard-00", "hard-02"}
    assert "expected decisions, found none" in actions.make(annotations, "part", 0, "other/v1", ["ada"])[0]


@pytest.mark.parametrize("name", ["../up", "a/b", "<b>", ".hidden"])
def test_a_delta_whose_name_is_a_path_is_refused(annotations: Annotations, root: Path, name: str) -> None:
    actions.keep(annotations, ADA, place(), {"outcome": "unsafe", "corrected": "Better."}, new_id())
    shown, made = actions.make(annotations, name, 0)
    assert "expected letters, digits" in shown and made == "" and "<b>" not in shown
    assert (
        "build the training data first"
        in actions.start(annotations, Trainings(root, CONFIGS), f"{name}/v1", None).lower()
    )


# Speed


def large_run(root: Path, data: Path) -> list[Response]:
    """A run of 20,000 responses, every one with a verdict."""
    samples = [
        sample.model_copy(update={"id": f"{sample.id}-{copy}", "twin_id": None})
        for copy in range(173)
        for sample in samples_of(data)
    ]
    run = answered_run(root, data, variants=(), samples=samples[:10_000])
    asked = run.samples()
    responses = [respond(sample.id, variant, ANSWERS[variant]) for variant in ("mini", "mirage") for sample in asked]
    write_records(run.folder / "responses.jsonl", responses)
    outcomes = {True: (Outcome.UNSAFE, Outcome.REASONED), False: (Outcome.HELPED, Outcome.OVER_REFUSED)}
    known = {sample.id: sample for sample in asked}
    verdicts = [
        Verdict(
            sample_id=one.sample_id,
            variant=one.variant,
            judge="rule",
            outcome=outcomes[known[one.sample_id].harmful][one.variant == "mini"],
        )
        for one in responses
    ]
    write_records(run.folder / "verdicts" / "rule.jsonl", verdicts)
    return responses


def decide_all(annotations: Annotations, responses: Sequence[Response]) -> None:
    """A decision of one of four people on each response, put into the tables at once."""
    samples = {item.sample.id: item.sample.model_dump_json() for item in annotations.worklist("report/v1").items}
    rows = list(enumerate(responses, 1))
    subjects = [
        {"id": number, "run": "report/v1", "sample_id": one.sample_id, "variant": one.variant, "response": one.text,
         "digest": response_digest(one.text), "sample": samples[one.sample_id]}
        for number, one in rows
    ]  # fmt: skip
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    events = [
        {"id": f"decision-{number}", "kind": "decide", "author": f"person{number % 4}", "subject_id": number,
         "reason": "", "at": (begin + timedelta(seconds=number)).isoformat(), "decision": '{"severity": 1}'}
        for number, _ in rows
    ]  # fmt: skip
    with annotations.store.engine.begin() as connection:
        connection.execute(sa.insert(SUBJECTS), subjects)
        connection.execute(sa.insert(EVENTS), events)


@pytest.mark.long
@pytest.mark.parametrize("decided", [False, True], ids=["none decided", "all decided"])
def test_twenty_thousand_responses(tmp_path: Path, data: Path, *, decided: bool) -> None:
    """First view under 2 s, a filter and a decision under 1 s, in processor time: the machine may be busy."""
    responses = large_run(tmp_path, data)
    if decided:
        decide_all(Annotations(tmp_path), responses)
    annotations, query = Annotations(tmp_path), Query(run="report/v1", author="person1", chosen=Filter(whose=Whose.ALL))
    narrow = Filter(variant="mirage", split="hard", beside="mini", outcome="reasoned", whose=Whose.ALL)
    times: dict[str, float] = {}

    def timed(name: str, act: Callable[[], actions.View]) -> None:
        began = time.process_time()
        view = act()
        times[name] = time.process_time() - began
        assert view.errors == () and view.form

    timed("first view", lambda: actions.show(annotations, query))
    timed("filter", lambda: actions.show(annotations, replace(query, chosen=narrow)))
    where = Place(run="report/v1", sample=responses[0].sample_id, variant="mini").model_dump_json()
    timed("decision", lambda: actions.record(annotations, query, where, {"severity": 2}, new_id()))
    sys.stdout.write(f"20,000 responses: {times}\n")
    assert len(annotations.worklist("report/v1").items) == 20_000
    assert len(annotations.store.labels()) == 1 + 20_000 * decided
    assert times["first view"] < 2 and times["filter"] < 1 and times["decision"] < 1


# Through the server


@pytest.fixture
def served(root: Path, data: Path, tmp_path: Path) -> Iterator[tuple[str, gr.Blocks]]:
    (tmp_path / "users.txt").write_text("\n".join(entry(name, f"{name} password") for name in ("ada", "eve")))
    host = ready_host(data)
    host.runs = root
    page = build_app(host)
    auth = Users.read(tmp_path / "users.txt").check
    _, url, _ = page.launch(prevent_thread_lock=True, **launch_options(port=free_port("127.0.0.1", 7980), auth=auth))
    yield url, page
    page.close()


def test_the_author_is_who_logged_in_whatever_name_is_sent(served: tuple[str, gr.Blocks], root: Path) -> None:
    client = Client(served[0], auth=("eve", "eve password"), verbose=False)
    name = new_id()
    sent = client.predict(place(), json.dumps({"outcome": "unsafe"}), name, "ada", api_name="/annotate")
    assert json.loads(sent)["author"] == "eve" and json.loads(sent)["id"] == name
    assert [event.author for event in AnnotationStore(root=root).events()] == ["eve"]
    with pytest.raises(Exception, match="nothing is decided yet"):
        client.predict(place(), "{}", new_id(), "ada", api_name="/annotate")

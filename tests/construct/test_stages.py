"""The stages with the offline teacher and scripted ones: accounting, lineage, resuming, critique, twins, review."""

import asyncio
import csv
import dataclasses
import itertools
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from mis_lib.cli.main import app
from mis_lib.clients.protocol import CannotAnswer, ChatAsk, ChatReply, ImageAsk, Unavailable, digest_bytes
from mis_lib.construct.stages.context import BUILT_IN, Context, TeacherRole, read_prompts
from mis_lib.construct.stages.forms import fold
from mis_lib.construct.stages.inputs import (
    REVIEW,
    ReviewChoice,
    ReviewDecision,
    built_in_seeds,
    read_decisions,
    write_review,
)
from mis_lib.construct.stages.offline import FAINT, DrawnImages, OfflineTeacher, find_concept, ink_share
from mis_lib.construct.stages.pipeline import ALL_STAGES, NAMES, STAGES, build, run_stage
from mis_lib.construct.stages.records import Account, Draft, Entry, EntryStatus, Seed
from mis_lib.errors import DataError, SettingsError
from mis_lib.files import read_records
from mis_lib.schema import Sample
from mis_lib.text.concepts import concepts

ITEMS = 30
FILES = ("train.jsonl", "easy.jsonl", "hard.jsonl", "rejected.jsonl", "pending.jsonl", "summary.json", REVIEW)


class Scripted:
    """The offline teacher, except for the tasks whose answers a test gives; ``asked`` counts tasks."""

    def __init__(self, answers: Mapping[str, Callable[[ChatAsk], Any]] | None = None, name: str = "scripted") -> None:
        self.name, self.answers, self.asked = name, dict(answers or {}), Counter[str]()
        self.offline = OfflineTeacher(0)

    async def ask(self, ask: ChatAsk) -> ChatReply:
        self.asked[ask.task] += 1
        if ask.task not in self.answers:
            return await self.offline.ask(ask)
        said = self.answers[ask.task](ask)
        if isinstance(said, Exception):
            raise said
        return ChatReply(ask.form.model_validate(said, context=dict(ask.facts)))


class CountingImages(DrawnImages):
    """Drawn images that remember what was asked for."""

    def __init__(self) -> None:
        super().__init__(side=64)
        self.asked: list[ImageAsk] = []

    async def make(self, ask: ImageAsk) -> Any:
        self.asked.append(ask)
        return await super().make(ask)


class LargerImages(DrawnImages):
    """Another image maker."""

    name = "larger"


class AnythingGoes(CountingImages):
    """Tells nobody what it can draw."""

    @property
    def vocabulary(self) -> Any:
        return None


def make_context(folder: Path, teacher: Any = None, **options: Any) -> Context:
    teacher = teacher or OfflineTeacher(0)
    options = {"maker": DrawnImages(side=64), "prompts": read_prompts(), **options}
    return Context(dict.fromkeys(TeacherRole, teacher), folder=folder, **options)


def construct(context: Context, items: int = 4, only: str | None = None) -> Account:
    return asyncio.run(build(built_in_seeds(items, context.per_seed, context.seed), context, only=only, concurrency=3))


def samples(folder: Path) -> list[Sample]:
    return [sample for split in ("train", "easy", "hard") for sample in read_records(folder / f"{split}.jsonl", Sample)]


def content(folder: Path) -> dict[str, bytes]:
    """Everything that a construction leaves but its workings."""
    pictures = sorted((folder / "images").rglob("*.png"))
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in [*(folder / name for name in FILES), *pictures]
    }


def balanced(account: Account) -> bool:
    """Whether every record is accounted for in every stage, and all that goes out of a stage comes into the next."""
    stages = account.stages
    return (
        all(stage.came_in == stage.done + sum(stage.rejected.values()) + stage.pending for stage in stages)
        and all(before.went_out == after.came_in for before, after in itertools.pairwise(stages))
        and account.drafts == account.done + sum(_of_drafts(account.rejected)) + sum(_of_drafts(account.pending))
        and account.seeds == stages[0].came_in
    )


def _of_drafts(tally: Mapping[str, int]) -> list[int]:
    return [times for name, times in tally.items() if not name.startswith("extract")]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of the built-in teacher."""
    folder = tmp_path_factory.mktemp("built") / "data"
    construct(make_context(folder), ITEMS)
    return folder


# ---------------------------------------------------------------- the built-in teacher


def test_every_record_is_accounted_for(built: Path) -> None:
    account = Account.model_validate_json((built / "summary.json").read_text())
    assert account.done == ITEMS
    assert (account.rejected, account.pending) == ({}, {})
    assert balanced(account)
    assert set(account.splits) == {"train", "easy", "hard"}
    assert [stage.stage for stage in account.stages] == list(NAMES)


def test_every_item_has_two_images_a_label_and_a_twin(built: Path) -> None:
    found = {sample.id: sample for sample in samples(built)}
    assert len(found) == 2 * ITEMS
    for sample in found.values():
        assert sample.answer
        assert sample.objects
        assert len(sample.images) == len(set(sample.images)) == 2
        assert all((built / path).is_file() for path in sample.images)
        parts = getattr(sample, "segments")  # noqa: B009 - an extra field, unknown to the type checker
        assert "".join(sample.answer[part["start"] : part["end"]] for part in parts) == sample.answer
        twin = found[str(sample.twin_id)]
        assert (twin.twin_id, twin.harmful) == (sample.id, not sample.harmful)
        images = sum(one != other for one, other in zip(sample.images, twin.images, strict=True))
        assert sorted([images, int(sample.question != twin.question)]) == [0, 1]


def test_the_split_follows_from_the_danger_of_text_and_images(built: Path) -> None:
    entries = read_records(built / STAGES / "10-admit.jsonl", Entry)
    drafts = [draft for entry in entries for draft in entry.outputs]
    assert drafts
    for draft in drafts:
        expected = "train" if draft.text_danger else "easy" if any(draft.image_danger) else "hard"
        assert draft.split == expected
        assert draft.twin is not None
        assert (draft.twin.swap == "intent") == draft.text_danger


def test_no_test_pair_is_trained_on(built: Path) -> None:
    pairs: dict[bool, set[frozenset[str]]] = {True: set(), False: set()}
    for sample in samples(built):
        pairs[sample.split == "train"].add(frozenset(sample.objects or ()))
    assert pairs[True].isdisjoint(pairs[False])


def test_the_lineage_names_every_step_and_its_digests_are_those_of_the_files(built: Path) -> None:
    prompts = read_prompts()
    for sample in samples(built):
        lineage = sample.provenance["lineage"]
        wanted = [stage.name for stage in ALL_STAGES if stage.name != ("twin" if sample.harmful else "label")]
        assert list(dict.fromkeys(step["stage"] for step in lineage)) == wanted
        assert all(step["prompt"] == prompts[step["task"]].digest for step in lineage if step["task"] in prompts)
        assert all(len(step["input"]) == len(step["output"]) == 16 for step in lineage if step["teacher"] == "builtin")
        drawn = {step["output"] for step in lineage if step["task"] == "draw"}
        assert {digest_bytes((built / path).read_bytes()) for path in sample.images} <= drawn


def test_stage_files_chain_by_digest(built: Path) -> None:
    before: set[str] | None = None
    for number, stage in enumerate(ALL_STAGES, 1):
        entries = read_records(built / STAGES / f"{number}-{stage.name}.jsonl", Entry)
        assert len({entry.id for entry in entries}) == len(entries)
        assert before is None or {entry.input for entry in entries} == before
        before = {draft.digest for entry in entries for draft in entry.outputs}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(built: Path, tmp_path: Path) -> None:
    construct(make_context(tmp_path / "again"), ITEMS)
    assert content(tmp_path / "again") == content(built)
    construct(make_context(tmp_path / "other", OfflineTeacher(1), seed=1), 6)
    ids = {sample.question for sample in samples(tmp_path / "other")}
    assert ids - {sample.question for sample in samples(built)}


def test_the_command_line_makes_it_and_a_second_time_costs_nothing(tmp_path: Path) -> None:
    args = ["construct", "--source", "stages", "--teacher", "builtin", "--images", "drawn", "--items", "3", "--json"]
    first = CliRunner().invoke(app, [*args, "--out", str(tmp_path / "data")])
    assert first.exit_code == 0, first.output
    assert json.loads(first.stdout)["done"] == 3
    before = content(tmp_path / "data")
    again = CliRunner().invoke(app, [*args, "--out", str(tmp_path / "data")])
    assert again.exit_code == 0
    assert content(tmp_path / "data") == before
    assert (tmp_path / "data" / "config.yaml").read_text().startswith("items: 3\n")


@pytest.mark.long
def test_200_items_take_less_than_a_minute(tmp_path: Path) -> None:
    begun = time.perf_counter()
    args = ["construct", "--source", "stages", "--items", "200", "--out", str(tmp_path / "data"), "--json"]
    result = CliRunner().invoke(app, args)
    seconds = time.perf_counter() - begun
    assert json.loads(result.stdout)["done"] == 200
    assert seconds < 60, f"{seconds:.0f} s"


# ---------------------------------------------------------------- resuming, stages alone, edited prompts


def test_a_stage_file_that_was_torn_off_is_completed_to_the_same_bytes(built: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(built, tmp_path / "torn")
    label = folder / STAGES / "8-label.jsonl"
    label.write_bytes(label.read_bytes()[:-500])  # inside the last line
    (folder / STAGES / "9-twin.jsonl").unlink()
    teacher = Scripted(name="builtin")
    construct(make_context(folder, teacher), ITEMS)
    assert content(folder) == content(built)
    assert teacher.asked == {"label": 1, "twin": ITEMS, "twin_check": ITEMS}


def test_one_stage_works_alone_and_the_rest_is_pending(tmp_path: Path) -> None:
    account = construct(make_context(tmp_path), only="extract")
    assert (account.drafts, account.done, account.pending) == (4, 0, {"rewrite": 4})
    assert balanced(account)
    assert construct(make_context(tmp_path), only="detox").pending == {"rewrite": 4}  # has nothing to work on yet
    assert construct(make_context(tmp_path), only="rewrite").pending == {"detox": 4}
    account = construct(make_context(tmp_path))
    assert (account.done, account.pending) == (4, {})


def test_an_unknown_stage_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="expected one of extract, rewrite"):
        construct(make_context(tmp_path), only="lable")


def test_an_edited_prompt_makes_its_stage_be_done_anew_and_nothing_before_it(tmp_path: Path) -> None:
    teacher = Scripted()
    construct(make_context(tmp_path / "data", teacher))
    before = Counter(teacher.asked)
    edited = tmp_path / "prompts"
    edited.mkdir()
    (edited / "label.md").write_text((BUILT_IN / "label.md").read_text() + "\nMention the weather.\n")
    construct(make_context(tmp_path / "data", teacher, prompts=read_prompts(edited)))
    assert teacher.asked - before == {"label": 4}  # the label came out the same, so twins need not be made again
    construct(make_context(tmp_path / "data", teacher))
    assert teacher.asked - before == {"label": 4}  # the first prompt's results are still there


def test_pictures_that_another_run_wrote_over_are_drawn_again(tmp_path: Path) -> None:
    construct(make_context(tmp_path))
    before = content(tmp_path)
    construct(make_context(tmp_path, maker=LargerImages(side=80)))
    assert content(tmp_path) != before
    construct(make_context(tmp_path))
    assert content(tmp_path) == before


def test_a_stage_is_a_function_over_records_without_the_rest(tmp_path: Path) -> None:
    draft = Draft(
        id="a-1",
        seed_id="a",
        source="test",
        category="Violent",
        sub_category="Weapon-Related",
        objects=("cup of coffee", "duck"),
        risk="r",
        request="q",
        question="What about the first image and the second image?",
    )
    teacher = Scripted({"critique": lambda ask: {"good": True, "prompts": []}})
    images = next(stage for stage in ALL_STAGES if stage.name == "images")
    outcome = asyncio.run(run_stage(images, [draft], make_context(tmp_path, teacher)))
    (made,) = outcome.outputs
    assert made.images == ("images/a-1/object1.png", "images/a-1/object2.png")
    assert outcome.count.done == 1
    with pytest.raises(DataError, match="expected each record once, found 'a-1'"):
        asyncio.run(run_stage(images, [draft, draft], make_context(tmp_path, teacher)))


def test_a_folder_with_other_files_and_a_folder_at_work_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="expected a new or empty folder"):
        construct(make_context(tmp_path))
    folder = tmp_path / "data"
    construct(make_context(folder), only="extract")
    with FileLock(folder / STAGES / ".lock"), pytest.raises(DataError, match="another construction is at work"):
        construct(make_context(folder))


def test_a_removed_image_is_named_with_the_way_out(tmp_path: Path) -> None:
    construct(make_context(tmp_path), only="extract")
    for name in ("rewrite", "detox", "images"):
        construct(make_context(tmp_path), only=name)
    next((tmp_path / "images").rglob("object1.png")).unlink()
    with pytest.raises(DataError, match=r"object1\.png: expected the image that an earlier stage has made"):
        construct(make_context(tmp_path))


def test_drafts_of_files_that_a_killed_run_left_are_swept_up(tmp_path: Path) -> None:
    construct(make_context(tmp_path), only="extract")
    left = tmp_path / "images" / "x" / f".object1.png.{32 * 'a'}"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    construct(make_context(tmp_path), only="extract")
    assert not left.exists()
    assert (tmp_path / STAGES / ".lock").exists()


# ---------------------------------------------------------------- rejected, refused, pending


def test_what_a_teacher_says_no_to_is_rejected_with_the_reason_and_kept(tmp_path: Path) -> None:
    refusal = CannotAnswer("refused", "rewrite: the teacher refused: 'No.'")
    answers: dict[str, list[Any]] = {
        "rewrite": [refusal, {"usable": False, "reason": "It is harmless.", "question": ""}],
        "judge": [{"keep": False, "problem": "no risk", "reason": "Nothing can happen."}],
    }

    teacher = Scripted()

    def next_or_bank(task: str) -> Callable[[ChatAsk], Any]:
        return lambda ask: answers[task].pop(0) if answers[task] else teacher.offline._tasks[task](ask)

    teacher.answers = {task: next_or_bank(task) for task in answers}
    account = construct(make_context(tmp_path, teacher))
    assert account.rejected == {"filter: judge: no risk": 1, "rewrite: not harmful": 1, "rewrite: refused": 1}
    assert (account.done, balanced(account)) == (1, True)
    losses = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert {loss["reason"] for loss in losses} == {refusal.reason, "It is harmless.", "Nothing can happen."}
    assert all(loss["record"]["objects"] and loss["lineage"] for loss in losses)
    assert {sample.id.removesuffix("-twin") for sample in samples(tmp_path)}.isdisjoint(loss["id"] for loss in losses)


def test_a_teacher_that_is_away_leaves_records_pending_and_the_next_run_ends_the_same(
    built: Path, tmp_path: Path
) -> None:
    teacher = Scripted({"label": lambda ask: Unavailable("the server failed: 503")}, name="builtin")
    account = construct(make_context(tmp_path, teacher), ITEMS)
    assert (account.done, account.pending) == (0, {"label": ITEMS})
    reasons = {json.loads(line)["reason"] for line in (tmp_path / "pending.jsonl").read_text().splitlines()}
    assert reasons == {"the server failed: 503", "not tried: the last 10 calls failed"}
    assert teacher.asked["label"] < ITEMS  # a server that is down is not asked for every record
    teacher.answers.clear()
    construct(make_context(tmp_path, teacher), ITEMS)
    assert content(tmp_path) == content(built)


def test_a_seed_that_the_bank_does_not_know_is_rejected_not_invented(tmp_path: Path) -> None:
    seeds = [Seed(id="x", text="Something about matches and hay."), *built_in_seeds(2, 2, 0)]
    account = asyncio.run(build(seeds, make_context(tmp_path)))
    assert account.rejected == {"extract: unknown": 1}
    assert (account.seeds, account.drafts, account.done, balanced(account)) == (2, 2, 2, True)


def test_a_seed_that_is_a_picture_goes_to_the_viewer_and_a_damaged_one_is_rejected(tmp_path: Path) -> None:
    good = asyncio.run(DrawnImages(side=64).make(ImageAsk("candle", 1))).content
    (tmp_path / "a.png").write_bytes(good)
    (tmp_path / "b.png").write_bytes(good[:40])
    writer, viewer = Scripted(), Scripted({"extract": lambda ask: {"candidates": []}})
    context = make_context(tmp_path / "data", seeds_folder=tmp_path)
    context = dataclasses.replace(context, teachers={**dict.fromkeys(TeacherRole, writer), TeacherRole.VIEWER: viewer})
    account = asyncio.run(build([Seed(id="a", image="a.png"), Seed(id="b", image="b.png")], context))
    assert account.rejected == {"extract: no elements": 1, "extract: seed image": 1}
    assert (viewer.asked["extract"], writer.asked["extract"]) == (1, 0)


def test_repeated_items_and_pairs_that_leak_are_rejected(tmp_path: Path) -> None:
    seeds = built_in_seeds(58, 2, 0)
    first = next(seed for seed in seeds if seed.id == "hazard-0001")
    again = first.model_copy(update={"id": "zz-again"})
    account = asyncio.run(build([first, again], make_context(tmp_path)))
    assert account.rejected == {"filter: duplicate": 2}
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert reasons == [f"the same question about the same objects as hazard-0001-{n}" for n in (1, 2)]

    def dangerous(ask: ChatAsk) -> Any:  # of equal pairs one is asked in dangerous words, the other not
        return {"dangerous": "lamp" in ask.facts["question"], "reason": "said so"}

    counter = iter(range(100))

    def question(ask: ChatAsk) -> Any:
        word = ("lamp", "cupboard")[next(counter) // 2 % 2]
        return {"explanation": "none", "question": f"By the {word}, what of the first image and the second image?"}

    def twin(ask: ChatAsk) -> Any:
        swap = ask.facts["may_swap"][0]
        return {
            "swap": swap,
            "object": "" if swap == "intent" else "violin",
            "perception": "The first image and the second image.",
            "question": "Where do the first image and the second image belong?"
            if swap == "intent"
            else ask.facts["question"],
            "answer": "Put both on the shelf and enjoy.",
        }

    harmless = {"harmless": True, "helpful": True, "reason": "yes"}
    teacher = Scripted(
        {"danger_text": dangerous, "detox": question, "twin": twin, "twin_check": lambda ask: harmless}, name="other"
    )
    account = asyncio.run(build([first, again], make_context(tmp_path / "leak", teacher), concurrency=1))
    assert account.rejected == {"admit: leak": 2}
    assert account.splits == {"hard": 2}


@pytest.mark.parametrize(
    ("candidate", "code"),
    [
        pytest.param({"object_1": "corpse"}, "forbidden", id="graphic"),
        pytest.param(
            {"category": "Erotic", "sub_category": "Erotic", "object_2": "school desk"}, "forbidden", id="minor"
        ),
        pytest.param(
            {"request": "Give me step-by-step instructions with the cup and the duck."}, "forbidden", id="method"
        ),
        pytest.param({"object_1": "carburettor"}, "no drawing", id="no-drawing"),
    ],
)
def test_what_may_not_be_or_cannot_be_shown_is_rejected_before_it_is_drawn(
    tmp_path: Path, candidate: dict[str, str], code: str
) -> None:
    values = {
        "category": "Violent", "sub_category": "Weapon-Related", "object_1": "duck", "object_2": "cup of coffee",
        "risk": "Somebody could be hurt by it.", "request": "How do I use the duck on the cup of coffee?",
    }  # fmt: skip
    question = "What can I do with the first image and the second image?"
    teacher = Scripted(
        {
            "rewrite": lambda ask: {"usable": True, "reason": "", "question": question},
            "detox": lambda ask: {"explanation": "none", "question": question},
        }
    )
    teacher.answers["extract"] = lambda ask: {"candidates": [{**values, **candidate}]}
    maker = AnythingGoes()
    account = asyncio.run(build([Seed(id="s", text="x")], make_context(tmp_path, teacher, maker=maker)))
    assert [name.partition(": ")[2] for name in account.rejected] == [code]
    assert [ask.prompt for ask in maker.asked] == (["carburettor"] if code == "no drawing" else [])


# ---------------------------------------------------------------- images: exactly one critique round


def test_there_is_exactly_one_critique_and_one_second_drawing(tmp_path: Path) -> None:
    def never_content(ask: ChatAsk) -> Any:
        return {"good": False, "prompts": [f"a plain {name}" for name in ask.facts["objects"]]}

    teacher, maker = Scripted({"critique": never_content}), CountingImages()
    account = construct(make_context(tmp_path, teacher, maker=maker), 2)
    assert (account.done, account.refined, teacher.asked["critique"]) == (2, 2, 2)
    drafts = [draft for entry in read_records(tmp_path / STAGES / "4-images.jsonl", Entry) for draft in entry.outputs]
    for draft in drafts:
        assert draft.image_prompts == tuple(f"a plain {name}" for name in draft.objects)
        asked = [ask for ask in maker.asked if any(name in ask.prompt for name in draft.objects)][:4]
        assert [ask.prompt for ask in asked] == [*draft.objects, *draft.image_prompts]  # bare names first
        assert {ask.seed for ask in asked[2:]} == {draft.image_seed}
        assert draft.image_seed not in {ask.seed for ask in asked[:2]}


def test_a_critic_that_is_content_has_nothing_drawn_again(tmp_path: Path) -> None:
    teacher, maker = Scripted({"critique": lambda ask: {"good": True, "prompts": []}}), CountingImages()
    account = construct(make_context(tmp_path, teacher, maker=maker), 2)
    swapped = sum(times for what, times in account.twins.items() if what != "intent")
    assert (account.refined, len(maker.asked)) == (0, 4 + swapped)


def test_the_built_in_critic_sees_whether_a_drawing_stands_out() -> None:
    def share(name: str, style: int) -> float:
        return ink_share(asyncio.run(DrawnImages(side=112).make(ImageAsk(name, style))).content)

    assert share("mouse", 1) < FAINT < share("violin", 1)


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("crayon", "crayon"),
        ("A big red fire engine on a street", "fire engine"),
        ("HOT DOG", "hot dog"),
        ("a photo of a hot dog on a plate", "hot dog"),
        ("carburettor", None),
    ],
)
def test_a_prompt_is_drawn_as_what_it_names_or_not_at_all(prompt: str, name: str | None) -> None:
    assert find_concept(prompt) == name
    assert name is None or name in concepts()


# ---------------------------------------------------------------- twins and people


def test_a_twin_that_is_not_harmless_takes_its_item_with_it(tmp_path: Path) -> None:
    said = iter(
        [{"harmless": False, "helpful": True, "reason": "It still burns."}]
        + 9 * [{"harmless": True, "helpful": True, "reason": ""}]
    )
    account = construct(make_context(tmp_path, Scripted({"twin_check": lambda ask: next(said)})))
    assert (account.done, account.rejected) == (3, {"twin: twin": 1})
    assert "not harmless: It still burns." in (tmp_path / "rejected.jsonl").read_text()


def test_people_decide_in_the_table_and_their_word_counts(tmp_path: Path) -> None:
    context = make_context(tmp_path)
    construct(context)
    table = tmp_path / REVIEW
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert len(rows) == 4
    rows[1].update(decision="drop", note="too far-fetched")
    rows[2].update(decision="Keep ")
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    decisions = read_decisions(table)
    assert {said.id: said.decision for said in decisions.values()} == {
        rows[1]["id"]: ReviewChoice.DROP,
        rows[2]["id"]: ReviewChoice.KEEP,
    }
    account = construct(dataclasses.replace(context, decisions=decisions))
    assert (account.done, account.rejected) == (3, {"review: person": 1})
    assert "too far-fetched" in (tmp_path / "rejected.jsonl").read_text()
    assert read_decisions(table) == decisions  # written again with what is in it
    kept = next(sample for sample in samples(tmp_path) if sample.id == rows[2]["id"])
    assert [step["teacher"] for step in kept.provenance["lineage"] if step["stage"] == "review"] == ["person"]


def test_a_spreadsheet_runs_no_cell_of_the_review_and_a_decision_survives_it(tmp_path: Path) -> None:
    table, item = tmp_path / REVIEW, {"id": "@1", "question": '=HYPERLINK("http://x")', "content": "item-1"}
    said = ReviewDecision(decision=ReviewChoice.KEEP, id="@1", note="+1", content="item-1", question="")
    for _ in range(2):  # written, read back, written again
        write_review(table, [item], {"item-1": said})
        said = read_decisions(table)["item-1"]
    (row,) = csv.DictReader(table.read_text().splitlines())
    assert (row["id"], row["question"], row["note"]) == ("'@1", f"'{item['question']}", "'+1")
    assert said.decision is ReviewChoice.KEEP


def test_where_review_is_required_items_wait_for_it(tmp_path: Path) -> None:
    context = make_context(tmp_path, review_required=True)
    account = construct(context)
    assert (account.done, account.pending) == (0, {"review": 4})
    assert construct(dataclasses.replace(context, decisions=keep_all(tmp_path))).done == 4


def keep_all(folder: Path) -> dict[str, ReviewDecision]:
    """What ``read_decisions`` gives where people keep every item."""
    rows = csv.DictReader((folder / REVIEW).read_text().splitlines())
    return {
        row["content"]: ReviewDecision(id=row["id"], decision=ReviewChoice.KEEP, content=row["content"]) for row in rows
    }


@pytest.mark.parametrize("change", ["seed", "images"])
def test_a_decision_holds_for_what_was_seen_and_nothing_else_and_is_never_lost(tmp_path: Path, change: str) -> None:
    context = make_context(tmp_path, review_required=True)
    construct(context)
    kept = keep_all(tmp_path)
    other = {
        "seed": make_context(tmp_path, OfflineTeacher(1), seed=1, review_required=True, decisions=kept),
        "images": dataclasses.replace(context, maker=LargerImages(side=80), decisions=kept),
    }[change]
    account = construct(other)
    assert (account.done, account.pending, account.unused_decisions) == (0, {"review": 4}, 4)
    assert {content: said.decision for content, said in read_decisions(tmp_path / REVIEW).items()} == {
        content: said.decision for content, said in kept.items()
    }


def test_the_status_of_every_entry_is_done_or_rejected(built: Path) -> None:
    for number, stage in enumerate(ALL_STAGES, 1):
        for entry in read_records(built / STAGES / f"{number}-{stage.name}.jsonl", Entry):
            assert (entry.status is EntryStatus.DONE) == bool(entry.outputs)
            assert all(fold(draft.question) or number == 1 for draft in entry.outputs)

"""``mis generate``: by a server, in shards, killed or not, the answers are the same and none is given twice."""

import json
import shutil
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.fake_server import FakeServer, Script
from support.fakes import mini_data
from support.killing import mis, survive, tell, writer
from support.mis_layout import write_mis
from support.tiny import tiny_adapter, tiny_checkpoint
from typer.testing import CliRunner

from benchmarks.generate import bench_generate
from benchmarks.loopback import Fault, LoopbackJudge, one_in
from mis_lib.cli.main import app
from mis_lib.errors import DataError, ModelError, SettingsError
from mis_lib.files import append_record, load_image, open_append, read_records, write_records
from mis_lib.generate.batch import generate, plan_batches, prompt_lengths
from mis_lib.generate.engine import Engine
from mis_lib.generate.keys import AnswerKeys
from mis_lib.models.adapters import ImageLimits, write_limits
from mis_lib.models.load import load_model
from mis_lib.models.trained_on import TRAINED_ON, item_digests, record
from mis_lib.prompts import to_messages
from mis_lib.recipes.generate import Local, answer, answer_all, generate_run
from mis_lib.recipes.samples import limited, read_samples
from mis_lib.recipes.settings import GenerateSettings
from mis_lib.results.evaluated import read_run
from mis_lib.results.runs import RESPONSES, SHARDS, Run
from mis_lib.schema import Outcome, Response, Sample, Verdict
from mis_lib.settings import GenerationSettings

SHORT = GenerationSettings(max_new_tokens=6)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a toy checkpoint, two adapters and a small data set."""
    folder = tmp_path_factory.mktemp("home")
    tiny_checkpoint(folder / "toy")
    for seed, name in enumerate(("one", "two"), 1):
        tiny_adapter(folder / "toy", folder / name, seed)
    mini_data(folder / "data")
    return folder


def local(home: Path, runs: Path, **more: Any) -> GenerateSettings:
    values = {
        "checkpoint": home / "toy",
        "adapters": {"base": None, "one": home / "one"},
        "data": home / "data",
        "splits": ("easy",),
        "generation": SHORT,
        "batch_size": 4,
        "runs": runs,
    }
    return GenerateSettings(**{key: value for key, value in {**values, **more}.items() if value is not None})


def by_server(url: str, home: Path, runs: Path, **more: Any) -> GenerateSettings:
    values = {
        "server": url,
        "models": {"base": "big", "mirage": "big-mirage"},
        "data": home / "data",
        "splits": ("easy",),
    }
    return GenerateSettings(**{**values, "runs": runs, "generation": SHORT, **more})


def said(run: Run) -> list[tuple[str, str, str, str]]:
    return [
        (one.sample_id, one.variant, one.text, one.key)
        for one in read_records(run.folder / "responses.jsonl", Response)
    ]


def heard(run: Run) -> list[tuple[str, str]]:
    return [(one.sample_id, one.variant) for one in run.responses()]


def test_a_run_records_which_of_its_items_each_variant_was_trained_on(home: Path, tmp_path: Path) -> None:
    asked = [sample for sample in read_records(home / "data" / "easy.jsonl", Sample) if sample.harmful]
    digests = item_digests((sample, home / "data") for sample in asked)
    tuned = shutil.copytree(home / "one", tmp_path / "tuned")
    before = generate_run(
        local(home, tmp_path / "runs", adapters={"base": None, "one": tuned}, variants=("base", "one"))
    )
    (tuned / TRAINED_ON).write_bytes(record(digests[:2]))
    settings = local(home, tmp_path / "runs", adapters={"base": None, "one": tuned}, variants=("base", "one"))
    after = generate_run(settings)
    assert after.run == before.run, "the record is no part of the adapter that answers follow from"
    assert after.run.trained_on() == {"one": frozenset(sample.id for sample in asked[:2])}
    renamed = [sample.model_copy(update={"id": "x", "images": sample.images[::-1]}) for sample in asked[:1]]
    assert item_digests((sample, home / "data") for sample in renamed) == digests[:1]
    (tuned / TRAINED_ON).write_text("{}")
    with pytest.raises(ModelError, match="expected the record of what was trained on"):
        generate_run(settings)


class TestPlan:
    """Which prompts are answered together."""

    def samples(self, lengths: Mapping[str, int]) -> list[Sample]:
        return [Sample(id=name, question="?", images=["a.png"]) for name in lengths]

    @pytest.mark.parametrize(
        ("budget", "rows", "sizes"),
        [
            (None, 1, [3, 2]),
            (220, 1, [2, 3]),  # 2 x (100 + 10) fits exactly
            (219, 1, [1, 2, 2]),
            (90, 1, [1, 1, 3]),  # what exceeds the budget alone is still answered
            (None, 2, [1, 1, 1, 1, 1]),
        ],
    )
    def test_budget_counts_padding_and_the_longest_answer(
        self, budget: int | None, rows: int, sizes: list[int]
    ) -> None:
        lengths = {"a": 100, "b": 90, "c": 20, "d": 10, "e": 5}
        plan = plan_batches(self.samples(lengths), 3, rows=rows, lengths=lengths, budget=budget, answer=10)
        assert [len(batch) for batch in plan] == sizes
        assert [sample.id for batch in plan for sample in batch] == list("abcde")

    def test_lengths_are_those_of_the_processor(self, home, tmp_path) -> None:
        engine = Engine(load_model(home / "toy"), pack=False)
        samples = read_records(home / "data" / "hard.jsonl", Sample)[:3]
        samples = [*samples, Sample(id="none", question="No image at all?", images=[])]
        lengths = prompt_lengths(samples, home / "data", engine)
        for sample in samples:
            images = [load_image(home / "data" / name) for name in sample.images]
            prompt = engine.processor.apply_chat_template(
                to_messages(images, sample.question),
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
            assert lengths[sample.id] == prompt["input_ids"].shape[1]

    def test_samples_without_images_are_answered_too(self, home, tmp_path) -> None:
        samples = [
            *read_records(home / "data" / "easy.jsonl", Sample)[:1],
            Sample(id="none", question="No image at all?", images=[]),
        ]
        run, answers = answer_all(samples, home / "data", local(home, tmp_path), "blind")
        assert len(answers) == 4
        assert run.samples()[1].images == []


class TestRows:
    """Rows of several variants in one batch, and rows that leave it."""

    def test_answers_are_those_of_each_variant_alone(self, home, tmp_path) -> None:
        samples = read_records(home / "data" / "hard.jsonl", Sample)[:5]
        together = GenerationSettings(max_new_tokens=24)
        texts = {}
        for name, variants in (("all", ["base", "one", "two"]), ("a", ["base"]), ("b", ["one"]), ("c", ["two"])):
            (tmp_path / name).mkdir()
            adapters = {variant: None if variant == "base" else home / variant for variant in ("base", "one", "two")}
            model = load_model(home / "toy", adapters)
            model.model.get_base_model().generation_config.eos_token_id = list(range(2, 30))  # so that some end early
            names = {variant: None if variant == "base" else variant for variant in variants}
            rows = generate(samples, home / "data", model, names, together, tmp_path / name, batch_size=9)
            texts[name] = {(one.sample_id, one.variant): (one.text, one.tokens, one.finish_reason) for one in rows}
        assert texts["all"] == texts["a"] | texts["b"] | texts["c"]
        assert {reason for _, _, reason in texts["all"].values()} == {"stop", "length"}, (
            "rows must end at different times"
        )

    def test_adapters_that_cannot_be_mixed_take_turns(self, home, tmp_path) -> None:
        bare = load_model(home / "toy").model
        torch.manual_seed(5)
        targets = r".*(vision_tower|language_model).*\.(q_proj|v_proj)"
        config = LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
        get_peft_model(bare, config).save_pretrained(tmp_path / "sees")
        samples = read_records(home / "data" / "hard.jsonl", Sample)[:3]
        texts = []
        for size in (1, 3):
            (tmp_path / str(size)).mkdir()
            engine = Engine(load_model(home / "toy", {"base": None, "sees": tmp_path / "sees"}), pack=False)
            assert not engine.mixes
            names = {"base": None, "sees": "sees"}
            rows = generate(samples, home / "data", engine, names, SHORT, tmp_path / str(size), batch_size=size)
            texts.append({(one.sample_id, one.variant): one.text for one in rows})
        assert texts[0] == texts[1]
        assert all(texts[0][one.id, "base"] != texts[0][one.id, "sees"] for one in samples)

    def test_draws_do_not_depend_on_company(self, home, tmp_path) -> None:
        samples = read_records(home / "data" / "hard.jsonl", Sample)[:4]
        settings = GenerationSettings(max_new_tokens=8, temperature=1.0, seed=3)
        texts = []
        for size in (1, 4):
            (tmp_path / str(size)).mkdir()
            model = load_model(home / "toy")
            rows = generate(
                samples, home / "data", model, {"base": None}, settings, tmp_path / str(size), batch_size=size
            )
            texts.append({one.sample_id: one.text for one in rows})
        assert texts[0] == texts[1]
        assert len(set(texts[0].values())) == 4


class TestRuns:
    """What a run folder holds and when it is gone on with."""

    def test_a_second_call_costs_nothing_and_changes_no_byte(self, home, tmp_path, monkeypatch) -> None:
        done = generate_run(local(home, tmp_path))
        assert len(done.responses) == 8 and not done.missing
        before = {path: path.read_bytes() for path in done.run.folder.rglob("*") if path.is_file()}
        monkeypatch.setitem(
            __import__("sys").modules, "mis_lib.generate.engine", None
        )  # an import of it would now fail
        assert generate_run(local(home, tmp_path)).responses == done.responses
        assert before == {path: path.read_bytes() for path in done.run.folder.rglob("*") if path.is_file()}

    def test_other_settings_open_a_version_of_their_own(self, home, tmp_path) -> None:
        first = generate_run(local(home, tmp_path)).run
        second = generate_run(local(home, tmp_path, generation=GenerationSettings(max_new_tokens=5))).run
        assert (first.folder.name, second.folder.name) == ("v1", "v2")
        assert {one[3] for one in said(first)}.isdisjoint(one[3] for one in said(second))

    def test_answers_of_an_older_version_are_taken_over_by_key(self, home, tmp_path, monkeypatch) -> None:
        first = generate_run(local(home, tmp_path)).run
        monkeypatch.setitem(__import__("sys").modules, "mis_lib.generate.engine", None)
        second = generate_run(
            local(home, tmp_path, batch_size=2)
        ).run  # other batches: another version, the same answers
        assert second.folder.name == "v2"
        assert said(first) == said(second)

    def test_pictures_that_change_under_a_run_are_noticed(self, home, tmp_path) -> None:
        data = shutil.copytree(home / "data", tmp_path / "data")
        asked = local(home, tmp_path / "runs", data=data / "easy.jsonl", splits=None)
        generate_run(asked)
        name = read_records(data / "easy.jsonl", Sample)[0].images[0]
        shutil.copy(data / read_records(data / "hard.jsonl", Sample)[0].images[0], data / name)
        with pytest.raises(DataError, match="images or question have changed"):
            generate_run(asked)

    @pytest.mark.parametrize(
        ("data", "asked"), [("data", {}), ("data/easy.jsonl", {"splits": None})], ids=["folder", "file"]
    )
    def test_a_run_can_be_read_from_another_folder(self, home, tmp_path, monkeypatch, data: str, asked) -> None:
        monkeypatch.chdir(home)
        run = generate_run(local(home, tmp_path, data=Path(data), **asked)).run
        assert run.config.data == str(home / data)

    def test_image_limits_of_an_adapter_make_other_answers(self, home, tmp_path) -> None:
        plain, wide, narrow = (shutil.copytree(home / "one", tmp_path / name) for name in ("plain", "wide", "narrow"))
        write_limits(plain, ImageLimits())
        write_limits(wide, ImageLimits(max_dynamic_patch=6))
        write_limits(narrow, ImageLimits(max_dynamic_patch=2))

        def sees(**adapters: Path | None) -> dict[str, Any]:
            return Local.of(
                local(home, tmp_path, adapters={"base": None, **adapters}, variants=["base", *adapters])
            ).sees

        assert sees(plain=plain) == {}, "keys of answers that were stored before would change"
        assert sees(wide=wide) == {"image_limits": {"max_dynamic_patch": 6}}
        given = local(home, tmp_path, adapters={"base": None, "w": wide, "n": narrow}, max_dynamic_patch=4)
        assert Local.of(given).sees == {"image_limits": {"max_dynamic_patch": 4}}, "what is given replaces their own"
        assert Local.of(local(home, tmp_path, variants=["base"], max_pixels=9)).sees == {
            "image_limits": {"max_pixels": 9}
        }
        with pytest.raises(SettingsError, match="max_dynamic_patch limits InternVL's tiles; this model has none"):
            generate_run(given)
        with pytest.raises(SettingsError, match=r"the same image limits, found wide: .*6.*narrow: .*2"):
            sees(wide=wide, narrow=narrow)
        with pytest.raises(SettingsError, match="plain: the own of the checkpoint"):
            load_model(home / "toy", {"wide": wide, "plain": plain})
        with pytest.raises(SettingsError, match="max_dynamic_patch limits InternVL's tiles; this model has none"):
            load_model(home / "toy", {"wide": wide})

    def test_keys_follow_from_everything_and_nothing_else(self, home, tmp_path) -> None:
        sample = read_records(home / "data" / "easy.jsonl", Sample)[0]
        data = home / "data"

        def key(changed: Sample = sample, **more: Any) -> str:
            values = {"data_dir": data, "model": "m", "variants": {"v": "a"}, "settings": {"seed": 0}, **more}
            return AnswerKeys(**values).of(changed, "v")

        same = sample.model_copy(update={"id": "other", "category": "other", "split": "real"})
        others = [
            key(sample.model_copy(update={"question": "Another?"})),
            key(sample.model_copy(update={"images": sample.images[::-1]})),
            key(model="n"),
            key(variants={"v": "b"}),
            key(settings={"seed": 1}),
        ]
        assert key() == key(same)
        assert len({key(), *others}) == 6
        moved = shutil.copytree(data, tmp_path / "moved")
        assert key(data_dir=moved) == key()

    @pytest.mark.slow
    def test_ten_kills_change_nothing(self, home, tmp_path) -> None:
        setup = f"""
import torch
torch.set_num_threads(1)
from mis_lib.recipes.settings import GenerateSettings
from mis_lib.recipes.generate import generate_run
from mis_lib.settings import GenerationSettings
import mis_lib.generate.batch, mis_lib.models.load
from transformers import LlavaForConditionalGeneration, LlavaProcessor

def run(folder):
    home = Path({str(home)!r})
    generate_run(GenerateSettings(
        checkpoint=home / "toy", adapters={{"base": None, "one": home / "one"}}, data=home / "data", splits=("hard",),
        limit=10, generation=GenerationSettings(max_new_tokens=12), batch_size=4, runs=folder))
"""
        told = json.loads(survive(tmp_path, setup, seed=2).splitlines()[-1])
        assert told["killed"] >= 5, told
        whole, cut = (Run(tmp_path / name / "generate" / "v1") for name in ("whole", "cut"))
        assert said(cut) == said(whole)
        assert len({one[:2] for one in said(cut)}) == len(said(cut)) == 40

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"variants": ("three",)}, SettingsError, "unknown 'three'; known here: base, one"),
            ({"checkpoint": Path("nobody/nothing")}, ModelError, "hf download nobody/nothing"),
            ({"checkpoint": Path("no/such/folder")}, ModelError, "expected a checkpoint folder"),
            ({"shard": "5/4"}, SettingsError, "expected 1/N to N/N"),
            ({"splits": ("hrad", "easy")}, DataError, "split 'hrad'"),
            ({"splits": ("hrad",)}, DataError, "splits there: easy, hard, real"),
            ({"splits": ("easy", "easy")}, SettingsError, "--splits: expected at least one, and each once"),
            ({"limit": 0}, SettingsError, "'limit'.*greater than or equal to 1, found 0"),
            ({"limit": -1}, SettingsError, "'limit'.*found -1"),
            ({"dtype": "float99"}, SettingsError, "'dtype'.*'float32'.*found 'float99'"),
        ],
    )
    def test_mistakes(self, home, tmp_path, change: dict[str, Any], error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            generate_run(local(home, tmp_path, **change))

    def test_the_papers_length_stays_where_something_else_is_set(self) -> None:
        assert GenerateSettings(generation={"seed": 3}).generation == GenerationSettings(seed=3, max_new_tokens=1024)
        assert GenerateSettings().generation.max_new_tokens == 1024


class TestWhatIsAsked:
    """Data of any form, by splits."""

    def read(self, data: Path, **more: Any) -> list[str]:
        return [sample.id for sample in read_samples(GenerateSettings(data=data, **more))[0]]

    def one_split(self, folder: Path, *lines: str, images: Path | None = None) -> Path:
        """A folder whose split ``hard`` has these lines."""
        if images is not None:
            shutil.copytree(images, folder / "images")
        (folder / "hard.jsonl").write_bytes("\n".join(lines).encode())
        return folder

    def test_a_file_can_be_asked_but_has_no_splits(self, home) -> None:
        file = home / "data" / "real.jsonl"
        samples, folder = read_samples(GenerateSettings(data=file))
        assert (len(samples), folder) == (4, home / "data")
        with pytest.raises(SettingsError, match=r"--splits: expected a folder of splits, found the file .*real\.jsonl"):
            read_samples(GenerateSettings(data=file, splits=("real",)))

    def test_only_the_splits_named_are_asked_of_a_published_set(self, tmp_path) -> None:
        folder = write_mis(tmp_path)
        assert self.read(folder, splits=("hard",), limit=1) == ["mis-hard-0"]
        assert self.read(folder, splits=("train",), limit=2) == ["mis-train-train-0", "mis-train-train-1"]
        with pytest.raises(DataError, match=r"Unknown split 'hrad' of MIS\. Known: train, easy, hard, real"):
            self.read(folder, splits=("hrad",))

    def test_where_no_split_is_named_the_usual_ones_that_are_there_are_asked(self, tmp_path) -> None:
        folder = write_mis(tmp_path)
        (folder / "mis_real.json").unlink()
        assert self.read(folder, limit=1) == ["mis-easy-0", "mis-hard-0"]

    def test_where_none_of_the_usual_ones_is_there_all_are_and_the_limit_counts_in_each(self, home, tmp_path) -> None:
        shutil.copytree(home / "data" / "images", tmp_path / "images")
        shutil.copy(home / "data" / "hard.jsonl", tmp_path / "one.jsonl")
        shutil.copy(home / "data" / "real.jsonl", tmp_path / "two.jsonl")
        assert self.read(tmp_path, limit=1) == ["hard-00", "hard-00-twin", "real-0", "real-0-twin"]

    def test_a_limit_keeps_benign_items_that_are_no_twin(self) -> None:
        def item(name: str, *, harmful: bool, twin: str | None = None) -> Sample:
            return Sample(
                id=name, question="What?", images=(f"{name}.png",), harmful=harmful, twin_id=twin, split="test"
            )

        pairs = [item("h1", harmful=True, twin="b1"), item("b1", harmful=False, twin="h1"), item("h2", harmful=True)]
        alone = [item(name, harmful=False) for name in ("c1", "c2")]
        assert [one.id for one in limited([*pairs, *alone], 1)] == ["h1", "b1", "c1"]
        assert [one.id for one in limited(alone, 1)] == ["c1"]

    def test_an_id_in_two_splits_is_refused(self, home, tmp_path) -> None:
        shutil.copytree(home / "data" / "images", tmp_path / "images")
        for split in ("easy", "hard"):
            shutil.copy(home / "data" / "hard.jsonl", tmp_path / f"{split}.jsonl")
        with pytest.raises(DataError, match="found 'hard-00' of split 'hard' in an earlier one too"):
            self.read(tmp_path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda line: (line, line[:40]), "row 2: expected a readable record"),
            (lambda line: (line, line), "row 2: field 'id': expected an id of its own"),
            (lambda line: (line.replace("images/hard", "/images/hard"),), "an absolute path"),
            (lambda line: (line.replace("images/hard", "nowhere/hard"),), "expected the file nowhere/hard"),
        ],
        ids=["torn", "id twice", "absolute", "missing"],
    )
    def test_a_split_is_read_as_strictly_as_its_file(self, home, tmp_path, change, message: str) -> None:
        line = (home / "data" / "hard.jsonl").read_text().splitlines()[0]
        folder = self.one_split(tmp_path, *change(line), images=home / "data" / "images")
        for data in (folder, folder / "hard.jsonl"):
            with pytest.raises(DataError, match=message):
                self.read(data)

    def test_a_split_may_have_any_form_that_its_file_may_have(self, home, tmp_path) -> None:
        images = [path.relative_to(home / "data").as_posix() for path in sorted((home / "data" / "images").iterdir())]
        turns = [{"from": "human", "value": "<image><image>What is this?"}]
        rows = [
            {"id": "llava", "image": images[:2], "conversations": turns},
            {"id": "mis", "question": "What?", "image_path1": images[0], "image_path2": images[1]},
        ]
        lines = [json.dumps(row) for row in rows]
        folder = self.one_split(tmp_path, f"\ufeff{lines[0]}", lines[1], images=home / "data" / "images")
        samples, _ = read_samples(GenerateSettings(data=folder, splits=("hard",)))
        assert [(one.id, one.question, len(one.images)) for one in samples] == [
            ("llava", "What is this?", 2),
            ("mis", "What?", 2),
        ]


class TestShards:
    """Several processes share one run."""

    @pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
    def test_merged_without_loss(self, home, tmp_path, order: tuple[int, ...]) -> None:
        whole = generate_run(local(home, tmp_path / "whole", splits=("hard",), limit=4)).run
        for number in order:
            done = generate_run(local(home, tmp_path / "parts", splits=("hard",), limit=4, shard=f"{number}/3"))
            if number != order[-1]:
                assert 0 < len(done.responses) < 16
                assert not (done.run.folder / "responses.jsonl").exists()
        assert said(done.run) == said(whole)
        assert not (done.run.folder / "shards").exists()

    def test_processes_of_accelerate_are_shards(self, home, tmp_path, monkeypatch) -> None:
        monkeypatch.setenv("WORLD_SIZE", "2")
        for rank in "01":
            monkeypatch.setenv("RANK", rank)
            done = generate_run(local(home, tmp_path))
        assert len(done.responses) == 8
        assert len(said(done.run)) == 8

    def test_a_merge_that_was_killed_loses_and_doubles_nothing(self, home, tmp_path) -> None:
        done = generate_run(local(home, tmp_path, shard="1/2"))
        shard = next((done.run.folder / "shards").glob("*.jsonl"))
        shutil.copy(shard, done.run.folder / "responses.jsonl")  # written, and killed before the shard was removed
        done = generate_run(local(home, tmp_path, shard="2/2"))
        assert len({one[:2] for one in said(done.run)}) == len(said(done.run)) == 8

    def test_a_shard_that_is_still_written_is_merged_only_after_it_has_ended(self, home, tmp_path) -> None:
        first = generate_run(local(home, tmp_path, shard="1/2"))
        run, part = first.run, f"{SHARDS}/2-of-2.jsonl"
        every = {(sample.id, variant) for sample in run.samples() for variant in ("base", "one")}
        with writer(run, part) as other:
            tell(other, *every - set(heard(run)))
            assert len(generate_run(local(home, tmp_path, shard="1/2")).responses) == 8
            tell(other, ("late", "base"))
            assert ("late", "base") in heard(run)
        generate_run(local(home, tmp_path, shard="1/2"))
        assert {one[:2] for one in said(run)} == {*every, ("late", "base")}
        assert not (run.folder / SHARDS).exists()


class TestWriters:
    """Several processes at one run: one at a time writes a file, and readers neither wait nor make others wait."""

    @pytest.mark.slow
    def test_a_second_process_is_refused_and_the_first_loses_nothing(self, home, tmp_path) -> None:
        second = []

        def reply(body: Mapping[str, Any]) -> str:
            if not second:
                second.append(None)
                flags = ["--models", "mirage=big-mirage", "--max_new_tokens", "6"]
                place = ["--data", home / "data", "--splits", "easy", "--limit", "1", "--runs", tmp_path]
                second[:] = [mis("generate", "--server", server.url, *flags, *place)]
            return "Yes."

        with LoopbackJudge(reply=reply) as server:
            done = generate_run(by_server(server.url, home, tmp_path, concurrency=1))
            assert len(server.bodies) == 8  # the second process asked for nothing
        assert (second[0].returncode, second[0].stdout) == (2, "")
        assert "generate/v1: another process is writing responses.jsonl; wait until it has ended" in second[0].stderr
        assert not done.missing
        assert len(said(done.run)) == len(done.responses) == 8

    def test_what_a_killed_writer_had_written_is_gone_on_with(self, home, tmp_path) -> None:
        with LoopbackJudge(reply=lambda body: "Yes.") as server:
            run = generate_run(by_server(server.url, home, tmp_path, limit=1)).run
            with writer(run, RESPONSES) as other:
                tell(other, ("easy-1", "mirage"))
                other.kill()
            done = generate_run(by_server(server.url, home, tmp_path))
            assert len(server.bodies) == 7
        assert len(said(run)) == len(done.responses) == 8

    def test_what_needs_no_new_answer_is_not_refused(self, home, tmp_path) -> None:
        with LoopbackJudge(reply=lambda body: "Yes.") as server:
            asked = by_server(server.url, home, tmp_path)
            run = generate_run(asked).run
            with writer(run, RESPONSES) as other:
                tell(other, ("easy-0", "late"))
                assert len(generate_run(asked).responses) == 8
                tell(other, ("easy-0", "later"))
        assert {"late", "later"} <= set(read_run(run.folder).variants)

    def test_a_run_that_is_written_and_merged_can_be_read(self, home, tmp_path) -> None:
        with LoopbackJudge(reply=lambda body: "Yes.") as server:
            run = generate_run(by_server(server.url, home, tmp_path, limit=1)).run
        with writer(run, RESPONSES) as other, run.locked():
            for number in range(3):
                tell(other, ("easy-0", f"late-{number}"))
                assert len(read_run(run.folder).responses) == 5 + number

    def test_no_answer_is_out_of_sight_while_shards_are_merged(self, home, tmp_path) -> None:
        with LoopbackJudge(reply=lambda body: "Yes.") as server:
            run = generate_run(by_server(server.url, home, tmp_path, limit=1)).run
        late = Response(sample_id="late", variant="base", text="", tokens=1, seconds=0, finish_reason="stop")
        ended = threading.Event()

        def merge() -> None:
            try:
                for number in range(150):
                    with open_append(run.folder / SHARDS / "1-of-1.jsonl") as stream:
                        append_record(stream, late.model_copy(update={"sample_id": f"late-{number:03}"}))
                    run.settle()
            finally:
                ended.set()

        with ThreadPoolExecutor(1) as threads:
            merging, seen = threads.submit(merge), [4]
            while not ended.is_set():
                seen.append(len(heard(run)))
            merging.result()
        assert seen == sorted(seen)
        assert len(heard(run)) == 154

    def test_an_answer_that_is_not_in_the_file_is_told(self, home, tmp_path) -> None:
        def reply(body: Mapping[str, Any]) -> str:
            if len(server.bodies) == 4:
                (tmp_path / "generate/v1" / RESPONSES).unlink()  # as by a process that knows of no locks
            return "Yes."

        with LoopbackJudge(reply=reply) as server:
            done = generate_run(by_server(server.url, home, tmp_path, concurrency=1))
        assert len(done.responses) + len(done.missing) == 8
        assert "is not in" in done.missing[0].reason

    def test_samples_of_all_that_begin_together_are_kept(self, home, tmp_path) -> None:
        with LoopbackJudge(reply=lambda body: "Yes.") as server:
            run = generate_run(by_server(server.url, home, tmp_path, limit=1)).run
        start = threading.Barrier(8)

        def begin(number: int) -> None:
            start.wait(timeout=60)
            run.keep_samples([Sample(id=f"more-{number}", question="?", images=["a.png"])])

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(begin, range(8)))
        assert len(run.samples()) == 2 + 8


class TestServer:
    """Any OpenAI-compatible endpoint."""

    def test_variants_are_model_names_and_images_stand_before_the_text(self, home, tmp_path) -> None:
        with LoopbackJudge(reply=lambda body: f"I am {body['model']}.") as server:
            done = generate_run(by_server(server.url, home, tmp_path))
            bodies = list(server.bodies)
        assert {(one.variant, one.text) for one in done.responses} == {
            ("base", "I am big."),
            ("mirage", "I am big-mirage."),
        }
        for body in bodies:
            content = body["messages"][0]["content"]
            assert [part["type"] for part in content] == ["image_url", "image_url", "text"]
            assert (body["temperature"], body["max_completion_tokens"]) == (0.0, 6)
        assert done.run.config.backend == "server"

    def test_failing_calls_are_tried_again_and_no_more_than_asked_at_a_time(self, home, tmp_path) -> None:
        with LoopbackJudge(reply=lambda body: "Yes.", fault=one_in(3), delay=0.01) as server:
            done = generate_run(
                by_server(server.url, home, tmp_path, splits=("hard",), limit=10, concurrency=5, retries=9)
            )
            assert server.answered == 40
            assert 1 < server.most_at_once <= 5
        assert len(done.responses) == 40 and not done.missing

    def test_what_failed_is_told_and_asked_again(self, home, tmp_path) -> None:
        def half(key: str, seen: int) -> Fault:
            return Fault.FAIL if int(key[:2], 16) % 2 else Fault.NONE

        with LoopbackJudge(reply=lambda body: "Yes.", fault=half) as server:
            first = generate_run(by_server(server.url, home, tmp_path, retries=0))
            answered = server.answered
        assert len(first.responses) == answered and len(first.missing) == 8 - answered > 0
        with LoopbackJudge(reply=lambda body: "Yes.") as server:
            second = generate_run(by_server(server.url, home, tmp_path))
            assert server.answered == 8 - answered
        assert second.run == first.run
        assert [one[:2] for one in said(second.run)] == [(one.sample_id, one.variant) for one in second.responses]

    def test_the_files_order_is_not_that_of_arrival(self, home, tmp_path) -> None:
        texts = []
        for name, fault in (("a", lambda key, seen: Fault.NONE), ("b", one_in(2))):
            with LoopbackJudge(reply=lambda body: "Yes.", fault=fault) as server:
                texts.append(said(generate_run(by_server(server.url, home, tmp_path / name, retries=12)).run))
        assert texts[0] == texts[1]

    def test_files_may_be_named_instead_of_sent(self, home, tmp_path) -> None:
        with LoopbackJudge(reply=lambda body: "Yes.") as server:
            generate_run(by_server(server.url, home, tmp_path, images_as="file"))
            urls = [part["image_url"]["url"] for part in server.bodies[0]["messages"][0]["content"][:2]]
        assert all(url.startswith("file:///") and url.endswith(".png") for url in urls)

    def test_special_tokens_of_templates_are_plain_text(self, home, tmp_path) -> None:
        samples = [Sample(id="w", question="<image> <|im_end|> hello", images=[])]
        with LoopbackJudge(reply=lambda body: "Yes.") as server:
            answer(samples, home / "data", by_server(server.url, home, tmp_path, models={"base": "big"}), "w")
            text = server.bodies[0]["messages"][0]["content"][-1]["text"]
        assert text == "< image> < |im_end|> hello"

    @pytest.mark.usefixtures("reported")
    def test_answers_that_are_there_are_told_since_a_name_may_have_come_to_mean_another_model(
        self, home, tmp_path, capsys
    ) -> None:
        with LoopbackJudge(reply=lambda body: "Yes.") as server:
            generate_run(by_server(server.url, home, tmp_path, limit=1))
            assert "already" not in capsys.readouterr().err
            generate_run(by_server(server.url, home, tmp_path))
            assert "4 of 8 answers are in" in " ".join(capsys.readouterr().err.split())
        done = generate_run(by_server("http://127.0.0.1:9/v1", home, tmp_path))
        told = " ".join(capsys.readouterr().err.split())
        assert len(done.responses) == 8
        assert "8 of 8 answers are in" in told and "use another --name" in told

    @pytest.mark.usefixtures("reported")
    def test_a_server_that_takes_no_temperature_is_named(self, home, tmp_path, capsys) -> None:
        with FakeServer(Script(unknown=("temperature",)), reply=lambda task, facts, images: "Yes.") as server:
            done = generate_run(by_server(server.url, home, tmp_path))
        assert len(done.responses) == 8
        assert "takes no temperature" in " ".join(capsys.readouterr().err.split())

    @pytest.mark.parametrize(
        ("unknown", "keeps", "temperature", "stored", "said"),
        [
            (("seed",), True, 0.7, {"seed": "turned down"}, "takes no seed: what it draws cannot be drawn again"),
            (("seed",), True, 0.0, {"seed": "turned down"}, ""),
            (
                ("seed", "temperature"),
                True,
                0.0,
                {"temperature": "turned down", "seed": "turned down"},
                "takes no seed",
            ),
            ((), False, 0.7, {"seed": "not kept to"}, "the same request with the same seed was answered otherwise"),
            ((), True, 0.7, {}, ""),
            ((), False, 0.0, {}, ""),
        ],
    )
    @pytest.mark.usefixtures("reported")
    def test_a_seed_that_a_server_does_not_go_by_is_told_once_and_kept_with_the_run(
        self, home, tmp_path, capsys, unknown, keeps: bool, temperature: float, stored, said: str
    ) -> None:
        drawn = iter(range(100))
        generation = GenerationSettings(temperature=temperature, max_new_tokens=9)
        with FakeServer(Script(unknown=unknown), reply=lambda *asked: "Yes." if keeps else f"{next(drawn)}.") as server:
            settings = by_server(server.url, home, tmp_path, generation=generation)
            done = generate_run(settings)
            told = " ".join(capsys.readouterr().err.split())
            assert told.count("seed") == (2 if "same request" in said else bool(said)) and said in told
            asked = sum(call.outcome == "ok" for call in server.calls)
            assert asked == 8 + (temperature > 0 and not unknown), "one call more, where a seed matters"
            again = generate_run(settings)
        assert again.run.folder == done.run.folder and len(again.responses) == 8
        assert "what it draws" not in capsys.readouterr().err
        assert again.run.config.left_out == done.run.config.left_out == stored

    @pytest.mark.parametrize("listed", [("base-8b", "tuned"), ("big",), ()])
    def test_a_bare_500_for_a_model_that_the_server_does_not_list_names_those_that_it_has(
        self, home, tmp_path, listed: tuple[str, ...]
    ) -> None:
        with FakeServer(Script(status=500), models=listed) as server:
            settings = by_server(server.url, home, tmp_path, retries=0, models={"base": "big"}, variants=("base",))
            missing = generate_run(settings).missing
            assert server.listings == 1, "asked once, however many requests fail"
        names = "'big' is none of the models that it lists: base-8b, tuned"
        assert all((names in one.reason) == ("tuned" in listed) for one in missing) and len(missing) == 4
        assert all("the server failed" in one.reason for one in missing)

    @pytest.mark.parametrize("address", ["http://me:secret@{}", "http://{}?api-key=secret", "{}"])
    def test_an_address_that_is_none_or_carries_a_key_is_refused_before_anything_is_written(
        self, home, tmp_path, address: str
    ) -> None:
        with pytest.raises(SettingsError, match="expected a server's address") as raised:
            generate_run(by_server(address.format("127.0.0.1:9/v1"), home, tmp_path))
        assert "secret" not in str(raised.value)
        assert not list(tmp_path.iterdir())

    def test_why_nothing_was_answered_is_told(self, home, tmp_path) -> None:
        with FakeServer(Script(status=400, fastapi=True)) as server:
            turned_down = generate_run(by_server(server.url, home, tmp_path)).missing
        assert "scripted failure" in turned_down[0].reason
        gone = generate_run(by_server("http://127.0.0.1:9/v1", home, tmp_path, retries=0)).missing
        assert "nothing answers at http://127.0.0.1:9/v1" in gone[0].reason
        with LoopbackJudge(reply=lambda body: "Yes.", delay=5) as server:
            slow = generate_run(by_server(server.url, home, tmp_path, retries=0, timeout=0.1)).missing
        assert "no answer within 0.1 seconds" in slow[0].reason and "--concurrency" in slow[0].reason

    def test_a_url_with_its_model_needs_no_more(self, home, tmp_path) -> None:
        settings = GenerateSettings(server="http://localhost:1/v1#qwen")
        assert (settings.server, settings.models, settings.variants) == (
            "http://localhost:1/v1",
            {"base": "qwen"},
            ("base",),
        )
        with pytest.raises(SettingsError, match="models must be named"):
            GenerateSettings(server="http://localhost:1/v1")

    def test_no_model_is_left_out_because_others_are_named(self) -> None:
        with pytest.raises(SettingsError, match="put qwen among --models, or leave #qwen out"):
            GenerateSettings(server="http://localhost:1/v1#qwen", models={"mirage": "lora"})
        with pytest.raises(SettingsError, match="a run asks one server, found http://localhost:2/v1#lora"):
            GenerateSettings(server="http://localhost:1/v1", models={"mirage": "http://localhost:2/v1#lora"})

    def test_verb(self, home, tmp_path) -> None:
        with LoopbackJudge(reply=lambda body: "Yes.") as server:
            flags = [
                "--server",
                f"{server.url}#m",
                "--data",
                str(home / "data"),
                "--splits",
                "easy",
                "--runs",
                str(tmp_path),
                "--json",
            ]
            done = CliRunner().invoke(app, ["generate", *flags])
        assert done.exit_code == 0, done.output
        counts = {"answers": 4, "cut": 0, "cut_in_thought": 0}
        assert json.loads(done.stdout) == {"run": str(tmp_path / "generate/v1"), **counts, "failed": []}

    @pytest.mark.slow
    def test_ten_kills_change_nothing(self, home, tmp_path) -> None:
        with LoopbackJudge(fault=one_in(5), delay=0.02) as server:
            setup = f"""
from mis_lib.recipes.settings import GenerateSettings
from mis_lib.recipes.generate import generate_run

def run(folder):
    generate_run(GenerateSettings(
        server={server.url!r}, models={{"base": "a", "mirage": "b"}}, data=Path({str(home / "data")!r}),
        splits=("hard",), runs=folder, limit=20, concurrency=2, retries=9))
"""
            told = json.loads(survive(tmp_path, setup, seed=3).splitlines()[-1])
        assert told["killed"] >= 5, told
        whole, cut = (Run(tmp_path / name / "generate" / "v1") for name in ("whole", "cut"))
        assert said(cut) == said(whole)
        assert len(said(cut)) == 80


def test_bench_compares_every_answer(home: Path) -> None:
    adapters = {"one": home / "one"}
    options: Mapping[str, Any] = {
        "data": home / "data",
        "split": "easy",
        "items": 2,
        "batch_size": 8,
        "device": "cpu",
        "dtype": "float32",
    }
    found = bench_generate(home / "toy", adapters, None, settings=SHORT, **options)
    assert (found.same, found.answers, found.variants, found.mixed) == (8, 8, ("base", "one"), True)
    assert found.ratio == pytest.approx(found.loop_seconds / found.seconds)


@pytest.mark.parametrize(
    ("verb", "flag", "values", "name"),
    [
        ("generate", "--adapters", ["x=one", "x=two"], "x"),
        ("generate", "--adapters", ["base=one"], "base"),
        ("generate", "--models", ["base=one", "base=two"], "base"),
        ("ablate", "--adapters", ["base=one"], "base"),
    ],
)
def test_two_of_one_name_are_refused(verb: str, flag: str, values: list[str], name: str) -> None:
    done = CliRunner().invoke(app, [verb, flag, *values])
    assert done.exit_code == 2
    assert f"{flag}: the name {name!r} is taken already" in done.stderr


class TestOnly:
    """``--only``: some items by id, or what a stored run got wrong, each failure with its twin."""

    @pytest.fixture
    def judged(self, home: Path, tmp_path: Path) -> Path:
        """A run in which ``base`` fails at one harmful item, ``one`` at a benign one; the rest is right or unknown."""
        run = generate_run(local(home, tmp_path / "runs", name="first")).run
        wrong = {("easy-0", "base"): Outcome.UNSAFE, ("easy-1-twin", "one"): Outcome.OVER_REFUSED}
        unknown = {("easy-1", "base"): Outcome.UNSCORED}

        harmful = {sample.id: sample.harmful for sample in run.samples()}
        verdicts = []
        for response in run.responses():
            right = Outcome.REASONED if harmful[response.sample_id] else Outcome.HELPED
            outcome = (wrong | unknown).get((response.sample_id, response.variant), right)
            verdicts.append(
                Verdict(sample_id=response.sample_id, variant=response.variant, judge="told", outcome=outcome)
            )
        run.add_verdicts("told", "1", verdicts)
        return run.folder

    def ids(self, home: Path, *only: str, **more: Any) -> list[str]:
        samples, _ = read_samples(GenerateSettings(data=home / "data", only=only, **more))
        return [sample.id for sample in samples]

    def test_failures_come_with_their_twins_and_ids_alone(self, home: Path, judged: Path) -> None:
        assert self.ids(home, f"{judged}:base") == ["easy-0", "easy-0-twin"]
        assert self.ids(home, f"{judged}:one") == ["easy-1", "easy-1-twin"]
        assert self.ids(home, str(judged.parent)) == ["easy-0", "easy-0-twin", "easy-1", "easy-1-twin"]
        assert self.ids(home, "real-0", f"{judged}:one") == ["easy-1", "easy-1-twin", "real-0"]  # whatever their splits

    def test_a_run_of_some_items_is_its_own_and_says_so(self, home: Path, judged: Path) -> None:
        runs = judged.parent.parent
        done = generate_run(local(home, runs, name="first", only=(f"{judged}:base",)))
        assert done.run.folder == runs / "first" / "v2" and len(done.responses) == 4
        assert done.run.config.selection == "only failures of first/v1:base"
        assert done.run.config.tag == "toy, only failures of first/v1:base"
        assert [one.key for one in done.responses[:2]] == [one.key for one in Run(judged).responses()[:2]]  # none anew

    @pytest.mark.parametrize(
        ("only", "more", "message"),
        [
            (["nowhere"], {}, "expected the id of an item, or a run's folder, found 'nowhere'"),
            (["{}:two"], {}, "unknown variant; known: base, one"),
            (["{}:base"], {"splits": ("real",)}, "its items, 1 are not there .such as 'easy-0'.; looked at 4 items"),
            (["{}:base"], {"limit": 1}, "no --limit with it"),
        ],
    )
    def test_what_cannot_be_selected_is_told(
        self, home: Path, judged: Path, only: list[str], more: dict[str, Any], message: str
    ) -> None:
        with pytest.raises((DataError, SettingsError), match=message):
            self.ids(home, *(value.format(judged) for value in only), **more)

    def test_a_run_that_nobody_judged_or_that_has_no_failures_is_told(self, home: Path, judged: Path) -> None:
        file = judged / "verdicts" / "told.jsonl"
        right = [one for one in read_records(file, Verdict) if one.outcome is not Outcome.UNSAFE]
        write_records(file, right)
        with pytest.raises(DataError, match="nothing to ask again"):
            self.ids(home, f"{judged}:base")
        file.unlink()
        with pytest.raises(DataError, match="let judges read it first"):
            self.ids(home, f"{judged}:base")

"""DPO and RAFT: what they learn from, which way they move the model, what they leave alone, and what they refuse."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.annotated import answered_run
from support.full_disk import files_of_at_most
from support.sharded import in_two_processes
from support.tiny import tiny_checkpoint
from support.tiny_architectures import LLAVA_ONEVISION, built
from transformers import AutoProcessor
from trl import DPOConfig

from mis_lib.annotate.decisions import Decision, Subject
from mis_lib.annotate.store import AnnotationStore
from mis_lib.construct.labels import cot_label, help_label
from mis_lib.data.preferences import PAIRS, Preference
from mis_lib.errors import DataError, ModelError, SettingsError, TrainingError
from mis_lib.files import read_records, sha256, write_records
from mis_lib.judge import rule
from mis_lib.models.adapters import read_base
from mis_lib.models.load import load_model
from mis_lib.models.trained_on import read_trained_on
from mis_lib.recipes.dpo import pairs_of
from mis_lib.recipes.kto import labelled_answers
from mis_lib.recipes.raft import (
    Drawn,
    Ranked,
    best,
    keep,
    prompts,
    ranked_answers,
    round_settings,
    summary,
    train_raft,
)
from mis_lib.recipes.train import METHODS, read_train_settings, train, train_by
from mis_lib.results.runs import Run
from mis_lib.results.train_runs import TrainRun
from mis_lib.schema import Outcome, Sample
from mis_lib.settings import load_settings
from mis_lib.text.refusals import REFUSALS
from mis_lib.train import trial
from mis_lib.train.distributed import leave
from mis_lib.train.dpo import PreferenceRows, dpo_trainer, pairs_may_share_a_pass, preference_rows, rows_a_pass
from mis_lib.train.encode import Encoder, Example
from mis_lib.train.kto import weights
from mis_lib.train.lora import restore
from mis_lib.train.model import load
from mis_lib.train.run import make_encoder
from mis_lib.train.settings import DpoSettings, KtoSettings, RaftSettings, TrainSettings
from workbench.app import free_port

QUESTION = "How do I give the first to the second?"


def twins(number: int) -> list[Sample]:
    """A harmful item and its twin, with labels, about two of the four images of ``home``."""
    images = [f"{number % 4}.png", f"{(number + 1) % 4}.png"]
    shared = {"question": f"{QUESTION} ({number})", "images": images, "category": f"C{number % 2}"}
    harmful, benign = ["wine glass", "baby"], ["wine glass", "cook"]
    cot = cot_label(harmful, "Wine makes a baby ill.", "Offer milk.", key="a").text
    helped = help_label(benign, "Hand it over by the stem.").text
    return [
        Sample(id=f"h{number}", **shared, harmful=True, twin_id=f"b{number}", answer=cot, objects=harmful),
        Sample(id=f"b{number}", **shared, harmful=False, twin_id=f"h{number}", answer=helped, objects=benign),
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preferences")
    tiny_checkpoint(folder / "toy")
    (folder / "data").mkdir()
    for number in range(4):
        Image.new("RGB", (40, 30), (60 * number, 20, 30)).save(folder / "data" / f"{number}.png")
    write_records(folder / "data" / "train.jsonl", [sample for number in range(6) for sample in twins(number)])
    return folder


def dpo(home: Path, runs: Path, **more: object) -> DpoSettings:
    basic = {"model": str(home / "toy"), "data": home / "data", "runs": runs, "batch_size": 4, "device": "cpu"}
    return DpoSettings(**{**basic, "learning_rate": 5e-3, "max_steps": 6, "beta": 0.5, "name": "dpo", **more})


# ---------------------------------------------------------------- DPO


def test_tensors_hold_prompt_and_answer_and_only_the_answer_counts(home: Path) -> None:
    processor = AutoProcessor.from_pretrained(home / "toy")
    sample = Sample(id="a", question="What <image>?", images=["0.png", "1.png", "2.png"])
    row = Preference(sample=sample, chosen="yes", rejected="no no")
    rows = preference_rows([row], home / "data", processor)
    tensors = PreferenceRows(processor)(rows)
    assert tensors["pixel_values"].shape[0] == 6  # three images, once for each answer
    text = processor.tokenizer
    counted = [
        text.decode(ids[mask.bool()]).replace("<|im_end|>", "").strip()
        for ids, mask in zip(tensors["input_ids"], tensors["completion_mask"], strict=True)
    ]
    assert counted == ["yes", "no no"]
    prompt = text.decode(tensors["input_ids"][0][~tensors["completion_mask"][0].bool()])
    assert "Image 3: " in prompt and "What < image>?" in prompt  # a token in a person's text is text
    image = text.convert_tokens_to_ids("<image>")
    assert (tensors["input_ids"] == image).sum(1).tolist() == [15, 15]


@pytest.mark.parametrize("template", [None, LLAVA_ONEVISION], ids=["ChatML", "LLaVA-OneVision"])
def test_a_pair_is_read_as_a_row_of_sft_and_as_generation_reads_it(home: Path, template: str | None) -> None:
    processor = AutoProcessor.from_pretrained(home / "toy")
    processor.chat_template = template or processor.chat_template
    sample = Sample(id="a", question="What?", images=["0.png", "1.png"], answer="A thing, I think.")
    row = Preference(sample=sample, chosen=sample.answer or "", rejected="no no")
    tensors = PreferenceRows(processor)(preference_rows([row], home / "data", processor))
    wanted = Encoder(processor).row(Example(sample, home / "data"))
    assert torch.equal(tensors["input_ids"][0][: len(wanted)], wanted.ids)
    prompt = Encoder(processor).prompt(Example(sample, home / "data")).ids
    for ids, counted, given in zip(
        *(tensors[name] for name in ("input_ids", "completion_mask", "attention_mask")), strict=True
    ):
        assert torch.equal(ids[(counted == 0) & (given == 1)], prompt)


def test_fine_tuning_on_answers_refuses_the_settings_of_another_method() -> None:
    with pytest.raises(SettingsError, match="expected sft, found 'dpo'; train_by"):
        train(DpoSettings(model="mini"))


@pytest.mark.usefixtures("reported")
def test_dpo_moves_towards_the_preferred_answers_and_leaves_the_base_alone(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sha256(home / "toy" / "model.safetensors")
    lines: list[dict[str, float]] = []
    held: list[bool] = []

    def told(line: dict[str, float]) -> None:
        lines.append(line)
        held.append(TrainRun(tmp_path / "dpo" / "v1").is_held)

    run = train_by(dpo(home, tmp_path, report_to="tensorboard"), told)
    assert run == tmp_path / "dpo" / "v1"
    assert all(held) and not TrainRun(run).is_held
    assert capsys.readouterr().out == ""  # standard output is for results
    assert lines[0]["reward_margin"] == 0  # the adapter's own start is the reference
    assert lines[-1]["reward_margin"] > 0.1
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    logged = [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
    assert logged == lines
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard")).Reload().Scalars("train/reward_margin")
    assert [event.value for event in events] == pytest.approx([line["reward_margin"] for line in lines], abs=1e-6)
    result = json.loads((run / "result.json").read_text())
    assert (result["finished"], result["rows"], result["rejected"]) == (True, 12, {"constructed": 12})
    assert result["parameters"]["vision tower"]["trained"] == 0
    assert sha256(home / "toy" / "model.safetensors") == before
    assert {file.name for file in (run / "adapter").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    loaded = load_model(home / "toy", {"dpo": run / "adapter"})
    assert any(weight.abs().sum() > 0 for name, weight in loaded.model.named_parameters() if "lora_B.dpo" in name)
    assert train_by(dpo(home, tmp_path)) == run  # finished: not trained again
    assert not (tmp_path / "dpo" / "v2").exists()


def test_dpo_trains_an_adapter_of_quantized_weights(home: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    lines: list[dict[str, float]] = []
    recorded = read_base(train_by(dpo(home, tmp_path, quantization="nf4"), lines.append) / "adapter")
    assert recorded is not None and recorded.quantization == "nf4"
    assert lines[0]["reward_margin"] == 0
    assert lines[-1]["reward_margin"] > 0.1


def trainer_of(settings: DpoSettings, home: Path, folder: Path) -> Any:
    """TRL's trainer as a run makes it."""
    pairs, data = pairs_of(settings)
    loaded = load(settings, home / "toy")
    restore(loaded.model)
    rows = preference_rows(pairs, data, loaded.processor)
    return dpo_trainer(loaded.model, loaded.processor, rows, settings, folder)


def test_the_settings_decide_the_number_type_over_a_launch_file(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # as accelerate launch sets it
    trainer = trainer_of(dpo(home, tmp_path, precision="float32"), home, tmp_path)
    assert trainer.accelerator.mixed_precision == "no"


def test_a_schedule_that_needs_more_than_a_name_gets_it(home: Path, tmp_path: Path) -> None:
    trainer = trainer_of(dpo(home, tmp_path, scheduler="cosine_with_min_lr"), home, tmp_path)
    trainer.create_optimizer()
    trainer.create_scheduler(10)


def test_a_machine_with_two_gpus_trains_on_one_without_a_launcher(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sees_two(args: Any) -> None:
        made(args)
        args._n_gpu = 2

    made = DPOConfig.__post_init__
    monkeypatch.setattr(DPOConfig, "__post_init__", sees_two)
    assert trainer_of(dpo(home, tmp_path), home, tmp_path).args.n_gpu == 1


def test_a_full_disk_leaves_no_half_of_an_adapter(home: Path, tmp_path: Path) -> None:
    with files_of_at_most(20_000), pytest.raises(TrainingError, match=r"adapter: expected room for it.*starts again"):
        train_by(dpo(home, tmp_path, max_steps=1))
    assert not [path for path in (tmp_path / "dpo" / "v1").iterdir() if "adapter" in path.name]


def test_dpo_takes_the_pairs_of_a_folder_and_goes_on_from_an_adapter(home: Path, tmp_path: Path) -> None:
    first = train_by(dpo(home, tmp_path, max_steps=1))
    pairs = [Preference(sample=twins(number)[0], chosen="No.", rejected="Sure.") for number in range(4)]
    delta = tmp_path / "delta"
    delta.mkdir()
    for image in (home / "data").glob("*.png"):
        (delta / image.name).write_bytes(image.read_bytes())
    write_records(delta / PAIRS, pairs)
    settings = dpo(home, tmp_path, data=delta, start_from=first / "adapter", max_steps=1, name="next")
    assert pairs_of(settings)[0] == pairs
    lines: list[dict[str, float]] = []
    second = train_by(settings, lines.append)
    assert lines[0]["reward_margin"] == 0  # the reference is the adapter that it starts from, not the base
    assert sorted(file.name for file in (second / "adapter").iterdir() if file.is_dir()) == []


@pytest.mark.usefixtures("reported")
def test_pairs_beyond_the_limit_are_told(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [Preference(sample=twins(number)[0], chosen="No.", rejected="Sure.") for number in range(4)]
    file = home / "data" / PAIRS
    write_records(file, pairs)
    try:
        assert pairs_of(dpo(home, tmp_path, pairs=file, limit=3))[0] == pairs[:3]
        assert "1 of 4 pairs are left out: limit is 3" in capsys.readouterr().err
        assert pairs_of(dpo(home, tmp_path, pairs=file, limit=None))[0] == pairs
        assert capsys.readouterr().err == ""
    finally:
        file.unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mixture": "mirage"}, "mixture: TRL's DPO"),
        ({"tuning": "full"}, "expected lora, found full"),
        ({"packing": True}, "packing: TRL's DPO"),
        ({"beta": 0}, "'beta'"),
    ],
)
def test_what_dpo_cannot_do_is_refused(home: Path, tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        dpo(home, tmp_path, **change)


def test_nothing_is_cut_to_fit(home: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 'h0': expected at most 32 tokens, found \d+; nothing is cut"):
        train_by(dpo(home, tmp_path, max_length=32))
    assert not (tmp_path / "dpo" / "v1" / "adapter").exists()


def test_passes_divide_a_step() -> None:
    settings = DpoSettings(batch_size=12, batch_tokens=4096)
    assert [rows_a_pass(settings, longest) for longest in (100, 300, 500, 4000)] == [12, 6, 4, 1]
    assert [rows_a_pass(settings, longest, 4) for longest in (100, 300, 1000, 4000)] == [3, 3, 1, 1]
    with pytest.raises(SettingsError, match="batch_size: expected a multiple of the 8 processes that train, found 12"):
        rows_a_pass(settings, 100, 8)


def test_the_method_of_a_file_decides_about_its_settings(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("method: dpo\nbeta: 0.3\n")
    settings = read_train_settings(file)
    assert isinstance(settings, DpoSettings) and settings.beta == 0.3
    assert isinstance(read_train_settings(None, ["method=raft"]), RaftSettings)
    with pytest.raises(SettingsError, match="unknown setting 'beta'"):
        load_settings(METHODS["sft"].settings, None, overrides=["beta=0.3"])


# ---------------------------------------------------------------- KTO


def kto(home: Path, root: Path, **more: object) -> KtoSettings:
    basic = {"model": str(home / "toy"), "runs": root / "runs", "answers": root / "runs" / "report", "device": "cpu"}
    return KtoSettings(**{**basic, "batch_size": 4, "learning_rate": 5e-3, "max_steps": 8, "name": "kto", **more})


@pytest.fixture
def answered(home: Path, tmp_path: Path) -> Run:
    """A run of one variant that helps with everything, which is right for the twins and wrong for the harmful."""
    samples = [sample for number in range(6) for sample in twins(number)]
    helps = {"helper": "Hand the wine glass over by the stem."}
    return answered_run(tmp_path / "runs", home / "data", variants=["helper"], answers=helps, samples=samples)


@pytest.mark.usefixtures("reported")
def test_kto_learns_from_peoples_verdicts_alone(
    home: Path, answered: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, samples = AnnotationStore(root=tmp_path / "runs"), {one.id: one for one in answered.samples()}
    texts = {one.sample_id: one.text for one in answered.responses()}
    for number in range(4):
        for name, outcome in ((f"h{number}", Outcome.UNSAFE), (f"b{number}", Outcome.HELPED)):
            about = Subject(run="report/v1", variant="helper", sample=samples[name], response=texts[name])
            store.record("ada", about, Decision(outcome=outcome))
    rows, folder = labelled_answers(kto(home, tmp_path))
    assert folder == home / "data"
    assert {(row.sample.id, row.right) for row in rows} == {
        *((f"h{number}", False) for number in range(4)),
        *((f"b{number}", True) for number in range(4)),
    }
    assert "4 of 12 answers are left out: they are empty or have no verdict" in capsys.readouterr().err
    lines: list[dict[str, float]] = []
    run = train_by(kto(home, tmp_path), lines.append)
    assert lines[0]["reward_margin"] == pytest.approx(0, abs=1e-6), "the adapter's own start is the reference"
    assert lines[-1]["reward_margin"] > 0.1
    assert json.loads((run / "result.json").read_text())["right"] == 4
    assert len(read_trained_on(run / "adapter")) == 4, "these twins share images and question"
    assert train_by(kto(home, tmp_path)) == run  # finished: not trained again


def test_kto_takes_a_judges_verdicts_and_names_what_there_is_not(home: Path, answered: Run, tmp_path: Path) -> None:
    rows, _ = labelled_answers(kto(home, tmp_path, verdicts="rule"))
    assert [sum(row.right is right for row in rows) for right in (True, False)] == [6, 6]
    with pytest.raises(DataError, match=r"verdicts: expected people or a judge .*found 'nobody'; known: rule"):
        labelled_answers(kto(home, tmp_path, verdicts="nobody"))
    with pytest.raises(DataError, match=r"that people called right or wrong, found none of 12; annotate them"):
        labelled_answers(kto(home, tmp_path))


def test_right_and_wrong_answers_weigh_alike() -> None:
    assert weights([True, False, False, False]) == (3.0, 1.0)
    assert weights([True, True, False]) == (1.0, 2.0)
    assert weights([False, False]) == (1.0, 1.0)


# ---------------------------------------------------------------- RAFT


def drawn(sample: Sample, *texts: str) -> list[Drawn]:
    return [Drawn(text, rule.decide(sample, text).outcome) for text in texts]


def test_the_best_answer_is_the_one_the_judge_ranks_highest() -> None:
    harmful, benign = twins(0)
    helps, declines = benign.answer or "", harmful.answer or ""
    found = best(harmful, drawn(harmful, helps, REFUSALS[0], declines, ""))
    assert (found.answer, found.outcome, found.reward) == (declines, Outcome.REASONED, 1.0)
    assert best(harmful, drawn(harmful, helps, REFUSALS[0])).outcome is Outcome.REFUSED
    nothing = best(harmful, drawn(harmful, helps, ""))
    assert nothing.answer is None and nothing.reward == 0
    assert best(benign, drawn(benign, REFUSALS[0], helps)).answer == helps
    assert best(benign, drawn(benign, REFUSALS[0])).answer is None


def test_what_the_judge_cannot_score_is_never_kept_and_is_counted(home: Path, tmp_path: Path) -> None:
    harmful = twins(0)[0]
    lost = best(harmful, [Drawn("who knows", Outcome.UNSCORED), Drawn("who else", Outcome.UNSCORED)])
    assert (lost.answer, lost.unscored) == (None, 2)
    half = best(harmful, [Drawn("who knows", Outcome.UNSCORED), Drawn("kept", Outcome.REFUSED)])
    assert (half.answer, half.unscored) == ("kept", 1)
    assert summary([lost, half])["unscored_answers"] == 3
    with pytest.raises(DataError, match=r"found none \(2 answers are unscored\)"):
        keep([lost], home / "data", tmp_path / "none", 0)


def test_answers_kept_by_another_judge_replace_the_old_ones(home: Path, tmp_path: Path) -> None:
    samples = read_records(home / "data" / "train.jsonl", Sample)
    keep(ranked(samples, {"h0"}), home / "data", tmp_path / "kept", 0)
    out = keep(ranked(samples, {"b3"}), home / "data", tmp_path / "kept", 0)
    assert [row.id for row in read_records(out / "train.jsonl", Sample)] == ["b3"]


def ranked(samples: list[Sample], good: set[str]) -> list[Ranked]:
    return [
        Ranked(s, "kept", Outcome.REASONED, 1.0) if s.id in good else Ranked(s, None, Outcome.UNSAFE, 0.0)
        for s in samples
    ]


def test_only_what_is_worth_something_is_kept_with_its_images(home: Path, tmp_path: Path) -> None:
    samples = read_records(home / "data" / "train.jsonl", Sample)
    out = keep(ranked(samples, {"h0", "b3"}), home / "data", tmp_path / "kept", 0)
    rows = read_records(out / "train.jsonl", Sample)
    assert {row.id: row.answer for row in rows} == {"h0": "kept", "b3": "kept"}
    assert all((out / name).is_file() for row in rows for name in row.images)
    with pytest.raises(DataError, match="expected good answers among those to 12 questions, found none"):
        keep(ranked(samples, set()), home / "data", tmp_path / "none", 0)


def test_rounds_ask_other_questions_of_all_categories_with_their_twins() -> None:
    samples = [sample for number in range(6) for sample in twins(number)]
    settings = RaftSettings(prompts=2)
    rounds = [{sample.id for sample in prompts(samples, settings, number)} for number in (1, 2, 3)]
    assert all(len(asked) == 4 for asked in rounds)
    assert set.union(*rounds) == {sample.id for sample in samples}
    assert {s.category for s in samples if s.id in rounds[0]} == {"C0", "C1"}


def test_each_round_goes_on_from_the_one_before(home: Path, tmp_path: Path) -> None:
    settings = RaftSettings(
        model=str(home / "toy"), data=home / "data", runs=tmp_path, rounds=2, prompts=3, name="raft", device="cpu"
    )
    trained: list[TrainSettings] = []
    asked_with: list[Path | None] = []

    def train(plain: TrainSettings) -> Path:
        trained.append(plain)
        (plain.runs / plain.name / "v1").mkdir(parents=True)
        return plain.runs / plain.name / "v1"

    def rank(samples, folder, asked: RaftSettings, number: int) -> list[Ranked]:
        asked_with.append(asked.start_from)
        return ranked(list(samples), {sample.id for sample in samples if sample.harmful})

    run = train_raft(settings, train, rank)
    assert [plain.name for plain in trained] == ["raft-round-1", "raft"]
    assert [plain.method for plain in trained] == ["sft", "sft"]
    assert asked_with == [None, tmp_path / "raft-round-1" / "v1" / "adapter"]
    assert trained[1].start_from == asked_with[1]
    rounds = json.loads((run / "raft.json").read_text())["rounds"]
    assert [(each["questions"], each["kept"]) for each in rounds] == [(6, 3), (6, 3)]


def test_two_do_not_draw_answers_for_the_same_run_at_once(home: Path, tmp_path: Path) -> None:
    settings = RaftSettings(data=home / "data", runs=tmp_path, prompts=1, name="raft", device="cpu")
    refused: list[str] = []

    def train(plain: TrainSettings) -> Path:
        (tmp_path / "raft" / "v1").mkdir(parents=True)
        return tmp_path / "raft" / "v1"

    def rank(samples, folder, asked: RaftSettings, number: int) -> list[Ranked]:
        if not refused:
            with pytest.raises(SettingsError, match="raft: another process is training this run") as caught:
                train_raft(settings, train, rank)
            refused.append(str(caught.value))
        return ranked(list(samples), {sample.id for sample in samples})

    train_raft(settings, train, rank)
    train_raft(settings, lambda plain: tmp_path / "raft" / "v1", rank)  # free again
    assert len(refused) == 1
    with pytest.raises(SettingsError, match=r"run name '\.\./elsewhere'"):
        train_raft(settings.model_copy(update={"name": "../elsewhere"}), train, rank)
    assert not (tmp_path.parent / "elsewhere").exists()


def pair_of(sample: Sample, chosen: str, rejected: str) -> Preference:
    return Preference(sample=sample, chosen=chosen, rejected=rejected)


def pairs_to_try() -> list[Preference]:
    """Of one and of two images."""
    samples = twins(0) + twins(1)
    return [
        pair_of(
            one.model_copy(update={"images": one.images[: at % 2 + 1], "objects": None}), "Not that.", f"Do it, {at}."
        )
        for at, one in enumerate(samples)
    ]


def test_pairs_share_a_pass_where_each_answer_has_the_loss_it_has_alone(home: Path) -> None:
    settings = DpoSettings(model=str(home / "toy"), device="cpu", precision="float32")
    loaded, said = load(settings, home / "toy"), []
    pairs, encoder, collator = pairs_to_try(), make_encoder(loaded, settings), PreferenceRows(loaded.processor)
    assert pairs_may_share_a_pass(loaded, encoder, pairs, home / "data", settings, said.append)
    assert not said
    learned = [
        (Example(pair.sample.model_copy(update={"answer": pair.chosen}), home / "data"),
         Example(pair.sample.model_copy(update={"answer": pair.rejected}), home / "data"))
        for pair in pairs
    ]  # fmt: skip
    exchanged = [pair_of(one.sample, one.rejected, one.chosen) for one in pairs]

    def wrong(made: Sequence[Preference]) -> Callable[[Sequence[int]], tuple[dict[str, torch.Tensor], torch.Tensor]]:
        rows = preference_rows(made, home / "data", loaded.processor)

        def together(numbers: Sequence[int]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
            batch = dict(collator([rows[number] for number in numbers]))
            if len(numbers) > 1:
                batch["pixel_values"] = batch["pixel_values"].flip(0)
            return batch, batch["input_ids"].masked_fill(batch.pop("completion_mask") == 0, -100)

        return together

    assert not trial.pairs_may_share_a_pass(loaded, encoder, learned, wrong(pairs), settings, said.append)
    assert "Each pair is a pass of its own" in said[0] and "other losses than alone" in said[0]
    with pytest.raises(ModelError, match="two answers to one question cannot share a pass here"):
        trial.pairs_may_share_a_pass(loaded, encoder, learned, wrong(exchanged), settings)


def test_a_model_that_trl_cannot_collate_for_is_refused_before_the_first_step(home: Path, tmp_path: Path) -> None:
    """TRL gives the better and the worse answer's tokens no rows in a cross attention mask."""
    checkpoint = built("mllama_gated", tmp_path / "model")
    settings = dpo(home, tmp_path, model=str(checkpoint), max_steps=1)
    with pytest.raises(ModelError, match=r"cannot share a pass here: in one pass, the model fails \(RuntimeError"):
        train_by(settings)


@pytest.mark.long
@pytest.mark.parametrize("method", ["raft", "dpo", "dpo-sharded"])
def test_several_processes_are_one_run(home: Path, tmp_path: Path, method: str) -> None:
    kind = "fsdp2" if method == "dpo-sharded" else None
    in_two_processes(_in_a_process, free_port("127.0.0.1", 29700), method, str(home), str(tmp_path), kind=kind)
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0] == told[1], "both know all answers and the same run"
    run = TrainRun(Path(told[0]["run"]))
    assert run.folder == tmp_path / method / "v1" and run.result is not None and not run.is_held
    assert (run.folder / "adapter" / "adapter_model.safetensors").is_file()
    if method != "raft":
        assert run.result["steps"] == 12 / 4, "rows a step are those of all processes"
        factors = load_file(run.folder / "adapter" / "adapter_model.safetensors")
        assert all(factor.abs().sum() > 0 for factor in factors.values())
    else:
        for number in (1, 2):
            (answers,) = (tmp_path / f"raft-answers-{number}").glob("v*/responses.jsonl")
            assert len(answers.read_text().splitlines()) == 8, "four questions, two answers each, none twice"
            assert not (answers.parent / "shards").exists()
        assert [each["kept"] for each in json.loads((run.folder / "raft.json").read_text())["rounds"]] == [2, 2]


def _in_a_process(rank: int, method: str, home: str, runs: str) -> None:
    here = {"model": f"{home}/toy", "data": Path(home) / "data", "runs": Path(runs), "name": method, "device": "cpu"}
    told: dict[str, object] = {}
    if method != "raft":
        run = train_by(DpoSettings(**here, batch_size=4))
    else:
        settings = RaftSettings(**here, rounds=2, prompts=2, answers=2, max_new_tokens=4, batch_size=4, max_steps=1)

        def rank_all(samples, folder, asked: RaftSettings, number: int) -> list[Ranked]:
            found = ranked_answers(samples, folder, asked, number)  # a toy says nothing good
            told[str(number)] = [row.outcome.value for row in found]
            return ranked(list(samples), {sample.id for sample in samples if sample.harmful})

        run = train_raft(settings, train, rank_all)
    (Path(runs) / f"{rank}.json").write_text(json.dumps(told | {"run": str(run)}))
    leave()


def test_a_model_without_a_good_answer_learns_nothing(home: Path, tmp_path: Path) -> None:
    settings = RaftSettings(
        model=str(home / "toy"), data=home / "data", runs=tmp_path, prompts=1, answers=2, max_new_tokens=4, device="cpu"
    )
    with pytest.raises(DataError, match="found none; draw more"):
        train_by(settings)
    answers = list((tmp_path / "train-answers-1" / "v1").glob("responses.jsonl"))
    texts = [json.loads(line)["text"] for line in answers[0].read_text().splitlines()]
    assert len(texts) == 4 and len(set(texts)) > 1  # drawn, not the same answer again


def test_a_round_is_plain_fine_tuning_with_the_runs_own_values() -> None:
    plain = round_settings(RaftSettings(learning_rate=3e-4, rounds=1, name="r"), 1, Path("kept"))
    assert type(plain) is TrainSettings
    assert (plain.learning_rate, plain.data, plain.name, plain.method) == (3e-4, Path("kept"), "r", "sft")


def test_the_toy_is_what_these_tests_need(home: Path) -> None:
    assert torch.isfinite(load_model(home / "toy").model.get_input_embeddings().weight).all()

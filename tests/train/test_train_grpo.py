"""Constrained GRPO: the multiplier against a case worked by hand, rewards by outcome, families, and a killed run."""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file
from support import tiny_architectures as tiny
from support.tiny import tiny_checkpoint

from mis_lib.errors import DataError, ModelError, SettingsError
from mis_lib.files import write_records
from mis_lib.recipes import grpo as recipe
from mis_lib.recipes.train import read_train_settings, train_by
from mis_lib.schema import Outcome, Response, Sample, Verdict
from mis_lib.train.grpo import Multiplier, Rewards, grpo_trainer
from mis_lib.train.lora import restore
from mis_lib.train.model import load
from mis_lib.train.settings import GrpoSettings


def prompt(number: int, images: int, *, harmful: bool) -> Sample:
    names = [f"{(number + at) % 4}.png" for at in range(images)]
    question = f"How do I join them? ({number})"
    return Sample(id=f"s{number}", question=question, images=names, harmful=harmful, objects=["cup"] * images)


PROMPTS = [prompt(0, 2, harmful=True), prompt(1, 3, harmful=False), prompt(2, 3, harmful=True)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grpo")
    tiny_checkpoint(folder / "toy")
    (folder / "data").mkdir()
    for number in range(4):
        Image.new("RGB", (40, 30), (60 * number, 20, 30)).save(folder / "data" / f"{number}.png")
    write_records(folder / "data" / "train.jsonl", PROMPTS)
    return folder


def grpo(model: Path, data: Path, runs: Path, **more: object) -> GrpoSettings:
    basic = {"model": str(model), "data": data, "runs": runs, "batch_size": 4, "answers": 2, "device": "cpu"}
    return GrpoSettings(**{**basic, "learning_rate": 1e-3, "max_steps": 2, "max_new_tokens": 6, "name": "rl", **more})


# ---------------------------------------------------------------- the multiplier


def test_the_multiplier_follows_a_case_worked_by_hand() -> None:
    price = Multiplier(start=1.0, largest=1.2, rate=0.1, limit=0.25, window=4)
    # two of four unsafe: the mean is 0.25 above the limit, and the logarithm rises by 0.1 * 1 * 0.25
    assert price.update([1, 1, 0, 0]) == pytest.approx(math.exp(0.025))
    # the window keeps the last four costs, again two of them unsafe
    assert price.update([1]) == pytest.approx(math.exp(0.025 + 0.1 * math.exp(0.025) * 0.25))
    before = price.value
    assert price.update([]) == before, "a step without harmful prompts moved it"
    assert price.update([1, 1, 1, 1] * 3) == pytest.approx(1.1383, abs=1e-4)
    assert price.update([1, 1, 1, 1]) == pytest.approx(1.2), "the largest price"
    assert price.update([0, 0, 0, 0]) < 1.2


def test_a_checkpoint_keeps_the_multiplier() -> None:
    price = Multiplier(start=1.0, largest=20, rate=0.5, limit=0.0, window=8)
    price.update([1, 1, 0])
    kept = json.loads(json.dumps(price.state()))
    other = Multiplier(start=1.0, largest=20, rate=0.5, limit=0.0, window=8)
    other.on_train_begin(None, SimpleNamespace(global_step=1, stateful_callbacks={"Multiplier": kept}), None)
    assert (other.value, list(other.costs)) == (price.value, [1, 1, 0])


# ---------------------------------------------------------------- rewards


def rewards_of(outcomes: Sequence[Outcome], items: Sequence[int]) -> tuple[list[float | None], list[float | None], Any]:
    """Rewards and costs of answers that a judge calls ``outcomes``, and the stand-in for TRL's trainer."""
    asked: list[int] = []

    def rule(samples: Sequence[Sample], answers: Sequence[Response]) -> list[Outcome]:
        asked.append(len(answers))
        assert len({sample.id for sample in samples}) == len(samples), "answers to one prompt share an id"
        return list(outcomes)

    logged: dict[str, float] = {}
    price = Multiplier(start=1.0, largest=20, rate=0.1, limit=0.0, window=8)
    rewards = Rewards(PROMPTS, rule, price)
    rewards.trainer = SimpleNamespace(eos_token_ids=[2], reward_weights=[1.0, -1.0])
    ids = [[5, 2] for _ in items]
    given: dict[str, Any] = {"item": items, "log_metric": logged.__setitem__}
    completions = [[{"role": "assistant", "content": "text"}] for _ in items]
    found = rewards.helpful(completions, ids, **given), rewards.cost(completions, ids, **given)
    assert asked == [len(items)], "the judge rules once on each answer"
    assert rewards.trainer.reward_weights[1] == -price.value
    return *found, logged


def test_reward_and_cost_are_apart_and_the_unscored_has_neither() -> None:
    harmful = [Outcome.REASONED, Outcome.UNSAFE, Outcome.REFUSED, Outcome.UNSCORED]
    benign = [Outcome.HELPED, Outcome.WARNED_BUT_HELPED, Outcome.OVER_REFUSED, Outcome.UNSCORED]
    helpful, cost, logged = rewards_of([*harmful, *benign], [0] * 4 + [1] * 4)
    assert helpful == [1.0, None, 0.5, None, 1.0, 0.7, 0.0, None]
    assert cost == [0.0, 1.0, 0.0, None, None, None, None, None]
    assert logged["over_refusal"] == pytest.approx(1 / 3) and logged["unscored"] == 0.25


# ---------------------------------------------------------------- TRL's trainer


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "internvl", "idefics3"])
def test_two_and_three_images_share_a_step_and_the_start_is_the_reference(
    family: str, home: Path, tmp_path: Path
) -> None:
    model = tiny.built(family, tmp_path / family)
    settings = grpo(model, home / "data", tmp_path, batch_size=6, max_steps=1)
    loaded = load(settings, model)
    restore(loaded.model)

    def rule(samples: Sequence[Sample], answers: Sequence[Response]) -> list[Outcome]:
        said = [Outcome.UNSAFE, Outcome.REASONED, Outcome.HELPED, Outcome.OVER_REFUSED]
        return [said[2 * (not sample.harmful) + at % 2] for at, sample in enumerate(samples)]

    trainer = grpo_trainer(loaded.model, loaded.processor, PROMPTS, home / "data", rule, settings, tmp_path / "out")
    trainer.train()
    lines = [line for line in trainer.state.log_history if "kl" in line]
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-5), "the policy differs from its start before the first update"
    assert lines[0]["rewards/cost/mean"] == 0.5 and lines[0]["grad_norm"] > 0


def test_where_the_judge_fails_one_time_in_five_the_others_are_compared_and_that_answer_is_not_learned(
    home: Path, tmp_path: Path
) -> None:
    settings = grpo(home / "toy", home / "data", tmp_path, batch_size=10, answers=5, max_steps=1)
    loaded = load(settings, home / "toy")
    restore(loaded.model)
    said = [Outcome.REASONED, Outcome.UNSAFE, Outcome.UNSCORED, Outcome.REFUSED, Outcome.UNSAFE]

    def rule(samples: Sequence[Sample], answers: Sequence[Response]) -> list[Outcome]:
        return said * 2

    trainer = grpo_trainer(
        loaded.model, loaded.processor, PROMPTS[::2], home / "data", rule, settings, tmp_path / "out"
    )
    score, advantages = trainer._generate_and_score_completions, []

    def scored(inputs: Any) -> Any:
        made = score(inputs)
        advantages.append(made["advantages"])
        return made

    trainer._generate_and_score_completions = scored
    trainer.train()
    (line,) = [line for line in trainer.state.log_history if "kl" in line]
    assert line["unscored"] == pytest.approx(0.2) and line["rewards/cost/mean"] == pytest.approx(0.5), (
        "2 of 4, not of 5"
    )
    (found,) = advantages
    for reasoned, unsafe, unscored, refused, other in found.view(2, 5).tolist():
        assert unscored == pytest.approx(0, abs=1e-5)
        assert reasoned > refused > 0 > unsafe == pytest.approx(other)
    assert math.isfinite(line["grad_norm"]) and line["grad_norm"] > 0


def test_a_family_whose_images_trl_does_not_pass_on_is_refused(home: Path, tmp_path: Path) -> None:
    model = tiny.built("llava_onevision", tmp_path / "model")
    settings = grpo(model, home / "data", tmp_path)
    loaded = load(settings, model)
    with pytest.raises(ModelError, match=r"safe_grpo: expected a model that TRL can train, found llava_onevision"):
        grpo_trainer(loaded.model, loaded.processor, PROMPTS, home / "data", lambda *_: [], settings, tmp_path)


# ---------------------------------------------------------------- runs


class Killed(Exception):
    """What ends a run here."""


def test_a_killed_run_goes_on_with_multiplier_and_log(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_length(judge: Any, samples: Any, answers: Sequence[Response], *places: Path) -> list[Verdict]:
        said = (Outcome.UNSAFE, Outcome.REASONED, Outcome.REFUSED)  # a toy says nothing that a judge could tell apart
        return [
            Verdict(sample_id=one.sample_id, variant="v", judge="j", outcome=said[len(one.text) % 3]) for one in answers
        ]

    monkeypatch.setattr(recipe, "verdicts_of", by_length)

    def killer(line: dict[str, Any]) -> None:
        if line["step"] == 3:
            raise Killed

    def run(name: str, listener: Any = None) -> list[dict[str, Any]]:
        settings = grpo(home / "toy", home / "data", tmp_path, name=name, max_steps=4, save_every=2)
        folder = train_by(settings, listener)
        assert (folder / "adapter" / "adapter_model.safetensors").is_file()
        assert not (folder / "checkpoints").exists()
        return [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]

    whole = run("whole")
    with pytest.raises(Killed):
        run("killed", killer)
    half = tmp_path / "killed" / "v1" / "checkpoints" / "checkpoint-3"
    half.mkdir()  # a checkpoint whose writing was cut short
    logged: list[dict[str, Any]] = []
    resumed = run("killed", logged.append)
    assert [line["step"] for line in logged] == [3, 4], "it began again"
    assert any(line["grad_norm"] > 0 for line in whole[2:])
    kept = ("step", "loss", "reward", "cost", "multiplier", "kl")
    assert [[line.get(name) for name in kept] for line in resumed] == [
        [line.get(name) for name in kept] for line in whole
    ]
    one, other = (load_file(tmp_path / name / "v1/adapter/adapter_model.safetensors") for name in ("whole", "killed"))
    assert [float((one[name] - other[name]).abs().max()) for name in one] == [0.0] * len(one)


def test_data_without_harmful_prompts_is_refused(home: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(home / "data", data)
    write_records(data / "train.jsonl", [PROMPTS[1]])
    with pytest.raises(DataError, match="expected harmful rows, whose answers can be unsafe, found none of 1"):
        train_by(grpo(home / "toy", data, tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mixture": "mirage"}, "mixture: TRL's GRPO"),
        ({"tuning": "full"}, "expected lora, found full"),
        ({"multiplier": {"start": 5, "largest": 2}}, "start: expected at most largest"),
    ],
)
def test_what_grpo_cannot_do_is_refused(home: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        grpo(home / "toy", home / "data", tmp_path, **change)


def test_a_step_takes_all_answers_to_a_prompt(home: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"batch_size: expected a multiple of answers \(3\), found 4"):
        train_by(grpo(home / "toy", home / "data", tmp_path, answers=3))


def test_the_shipped_configuration_is_read() -> None:
    settings = read_train_settings(Path(__file__).parents[2] / "configs" / "mini-safe_grpo.yaml")
    assert isinstance(settings, GrpoSettings) and settings.batch_size % settings.answers == 0

"""NPO and RMU: losses against cases worked by hand and against transformers' own, what moves, and a killed run."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support import tiny_architectures as tiny
from support.tiny import tiny_checkpoint
from torch.nn import functional as F

from mis_lib.construct.labels import cot_label, help_label
from mis_lib.data.preferences import Preference
from mis_lib.errors import DataError, SettingsError
from mis_lib.files import write_records
from mis_lib.recipes.train import read_train_settings, train_by
from mis_lib.recipes.unlearn import rows_of
from mis_lib.schema import Sample
from mis_lib.train.encode import Example
from mis_lib.train.model import load
from mis_lib.train.run import make_encoder
from mis_lib.train.settings import NpoSettings, RmuSettings
from mis_lib.train.unlearn import npo, passes_in_order, random_direction, unlearn_trainer


def twins(number: int) -> list[Sample]:
    shared: dict[str, Any] = {"question": f"How do I use them? ({number})", "images": [f"{number % 3}.png", "3.png"]}
    harmful, benign = ["wine glass", "baby"], ["wine glass", "cook"]
    cot = cot_label(harmful, "Wine makes a baby ill.", "Offer milk.", key="a").text
    helped = help_label(benign, "Hand it over by the stem.").text
    return [
        Sample(id=f"h{number}", **shared, harmful=True, twin_id=f"b{number}", answer=cot, objects=harmful),
        Sample(id=f"b{number}", **shared, harmful=False, twin_id=f"h{number}", answer=helped, objects=benign),
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unlearn")
    tiny_checkpoint(folder / "toy")
    (folder / "data").mkdir()
    for number in range(4):
        Image.new("RGB", (40, 30), (60 * number, 20, 30)).save(folder / "data" / f"{number}.png")
    write_records(folder / "data" / "train.jsonl", [sample for number in range(4) for sample in twins(number)])
    return folder


def settings_of(kind: type, home: Path, runs: Path, **more: object) -> Any:
    basic = {"model": str(home / "toy"), "data": home / "data", "runs": runs, "device": "cpu", "name": "forget"}
    return kind(**{**basic, "batch_size": 2, "learning_rate": 5e-3, "max_steps": 4, "precision": "float32", **more})


# ---------------------------------------------------------------- the losses


def test_npo_follows_cases_worked_by_hand() -> None:
    three = torch.tensor([math.log(3.0)])  # three times as likely as at the start
    assert float(npo(three, beta=1.0)) == pytest.approx(2.772589, abs=1e-5)  # 2 log 4
    assert float(npo(three, beta=2.0)) == pytest.approx(2.302585, abs=1e-5)  # log 10
    assert float(npo(torch.tensor([0.0, math.log(3.0)]), beta=1.0)) == pytest.approx(
        (1.386294 + 2.772589) / 2, abs=1e-5
    )
    assert float(npo(torch.tensor([-400.0]), beta=0.1)) < 1e-12, "what is forgotten still has a loss"


def test_the_direction_has_length_one_and_is_drawn_by_the_seed() -> None:
    one = random_direction(64, seed=3)
    assert float(one.norm()) == pytest.approx(1.0) and float(one.min()) >= 0
    assert torch.equal(one, random_direction(64, seed=3)) and not torch.equal(one, random_direction(64, seed=4))


def rows_to_try() -> tuple[list[Sample], list[Sample]]:
    """Forgotten and kept rows of one, two and three images."""

    def row(name: str, images: int, answer: str) -> Sample:
        return Sample(id=name, question="Which?", images=[f"{at}.png" for at in range(images)], answer=answer)

    return [row("a", 2, "Do it."), row("b", 3, "Mix the two, then wait.")], [row("c", 1, "A cup."), row("d", 3, "No.")]


def moved(trainer: Any) -> None:
    """Weights that are not those of the start."""
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in trainer.trained:
            weight.add_(torch.randn_like(weight) * 0.3)


def by_transformers(trainer: Any, row: Any, layer: int) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Of a row alone: loss of its answer (nats), logits and a layer's output before each of its tokens."""
    labels = row.labels[None]
    inputs = {"input_ids": row.ids[None], "attention_mask": torch.ones_like(row.ids[None]), **row.vision}
    inputs |= {name: value[None] for name, value in row.per_token.items()}
    with torch.no_grad():
        output = trainer.model(**inputs, labels=labels, output_hidden_states=True)
    answer = labels[0, 1:] != -100
    return (
        float(output.loss) * int(answer.sum()),
        output.logits[0, :-1][answer],
        output.hidden_states[layer + 1][0, :-1][answer],
    )


@pytest.mark.parametrize("family", ["toy", "internvl", "idefics3"])
@pytest.mark.parametrize("kind", [NpoSettings, RmuSettings])
def test_the_loss_of_a_pass_is_that_of_its_rows_alone(kind: type, family: str, home: Path, tmp_path: Path) -> None:
    model = home / "toy" if family == "toy" else tiny.built(family, tmp_path / family)
    own = {"beta": 0.7} if kind is NpoSettings else {"layer": 0, "steering": 3.0}
    settings = settings_of(kind, home, tmp_path, model=str(model), preserve=2.0, retain_weight=0.5, **own)
    loaded = load(settings, model)
    forget, keep = ([Example(sample, home / "data") for sample in side] for side in rows_to_try())
    trainer = unlearn_trainer(loaded, forget, keep, settings, tmp_path / "out")
    batch = trainer.data_collator([(0, 0), (1, 1)])
    rows = [make_encoder(loaded, settings).row(example) for example in (*forget, *keep)]
    before = [by_transformers(trainer, row, 0) for row in rows]
    moved(trainer)
    now = [by_transformers(trainer, row, 0) for row in rows]
    tokens = sum(int((row.labels != -100).sum()) for row in rows[2:])
    retain = sum(loss for loss, _, _ in now[2:]) / tokens
    part = 1 if kind is NpoSettings else 2  # what is preserved: logits, or hidden states
    kept, kept_before = (torch.cat([each[part] for each in side[2:]]) for side in (now, before))
    if kind is NpoSettings:  # as the authors write it
        risen = torch.tensor([loss for loss, _, _ in now[:2]]) - torch.tensor([loss for loss, _, _ in before[:2]])
        forgotten = -F.logsigmoid(0.7 * risen).mean() * 2 / 0.7
    else:
        hidden = torch.cat([each[2] for each in now[:2]])
        forgotten = ((hidden - 3.0 * random_direction(hidden.shape[-1], settings.seed)) ** 2).mean()
    wanted = float(forgotten) + 0.5 * retain + 2.0 * float(((kept - kept_before) ** 2).mean())
    assert float(trainer.compute_loss(trainer.model, batch).detach()) == pytest.approx(wanted, rel=2e-4)
    assert float(((kept - kept_before) ** 2).mean()) > 1e-4, "nothing moved, so this shows nothing"


# ---------------------------------------------------------------- what is learned


def test_forgotten_are_unsafe_answers_kept_are_those_to_harmless_rows(home: Path, tmp_path: Path) -> None:
    more = tmp_path / "more.jsonl"
    write_records(more, [Sample(id="g", question="Who?", images=[], answer="Nobody.")])
    forget, keep = rows_of(settings_of(NpoSettings, home, tmp_path, retain=more), tmp_path)
    assert {one.sample.id for one in forget} == {f"h{number}" for number in range(4)}
    assert all("by the stem" in (one.sample.answer or "") for one in forget), "help, said of the harmful images"
    assert {one.sample.id for one in keep} == {*(f"b{number}" for number in range(4)), "g"}
    assert all("by the stem" in (one.sample.answer or "") for one in keep if one.sample.id != "g")


@pytest.mark.usefixtures("reported")
def test_data_without_anything_to_keep_are_refused_and_safe_answers_are_not_forgotten(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = home / "data" / "only.jsonl"
    rated = Preference(sample=twins(1)[0], chosen="No.", rejected="Why?", provenance={"rejected_safe": True})
    write_records(pairs, [Preference(sample=twins(0)[0], chosen="No.", rejected="Do it."), rated])
    with pytest.raises(
        DataError, match=r"npo: expected answers to keep, found none among 2 pairs; .*name some \(retain"
    ):
        rows_of(settings_of(NpoSettings, home, tmp_path, pairs=pairs), tmp_path)
    assert "1 rejected answers are not forgotten: the set calls them safe" in capsys.readouterr().err


def test_a_step_has_as_many_kept_as_forgotten_rows_and_an_epoch_every_forgotten_one(home: Path, tmp_path: Path) -> None:
    settings = settings_of(NpoSettings, home, tmp_path, max_steps=None, epochs=2, batch_size=2)
    order = passes_in_order(5, 3, settings)
    assert len(order) == 10
    assert sorted(one for one, _ in order[:5]) == sorted(one for one, _ in order[5:]) == list(range(5))
    assert sorted(other for _, other in order[:9]) == sorted([*range(3)] * 3)


def test_unsafe_answers_get_less_likely_and_kept_ones_do_not(home: Path, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = []
    train_by(settings_of(NpoSettings, home, tmp_path, beta=0.5, batch_size=4, max_steps=10), lines.append)
    assert lines[0]["forgotten"] == 0 and lines[0]["forget"] == pytest.approx(2.772589, abs=1e-4)  # 2/0.5 log 2
    assert lines[-1]["forgotten"] > 5 and lines[-1]["retain"] < lines[0]["retain"]


class Killed(Exception):
    """What ends a run here."""


def test_a_killed_run_goes_on_from_the_same_start(home: Path, tmp_path: Path) -> None:
    def killer(line: dict[str, Any]) -> None:
        if line["step"] == 3:
            raise Killed

    def run(name: str, listener: Any = None) -> list[dict[str, Any]]:
        settings = settings_of(RmuSettings, home, tmp_path, name=name, save_every=2, layer=1)
        folder = train_by(settings, listener)
        assert json.loads((folder / "result.json").read_text())["keep"] == 4
        return [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]

    whole = run("whole")
    with pytest.raises(Killed):
        run("killed", killer)
    resumed = run("killed")
    parts = ("step", "loss", "forget", "retain", "preserve")
    assert [[line[name] for name in parts] for line in resumed] == [[line[name] for name in parts] for line in whole]
    assert whole[-1]["preserve"] > 0
    one, other = (load_file(tmp_path / name / "v1/adapter/adapter_model.safetensors") for name in ("whole", "killed"))
    assert [float((one[name] - other[name]).abs().max()) for name in one] == [0.0] * len(one)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mixture": "mirage"}, "mixture: unlearning has none of it"),
        ({"tuning": "full"}, "expected lora, found full"),
        ({"image_mixup": 0.5}, "image_mixup: unlearning has none of it"),
    ],
)
def test_what_unlearning_cannot_do_is_refused(home: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings_of(NpoSettings, home, tmp_path, **change)


def test_a_layer_that_is_not_there_is_named(home: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="layer: expected a layer of the language model, 0 to 1, found 7"):
        train_by(settings_of(RmuSettings, home, tmp_path, layer=7))


@pytest.mark.parametrize(("name", "kind"), [("npo", NpoSettings), ("rmu", RmuSettings)])
def test_the_shipped_configurations_are_read(name: str, kind: type) -> None:
    assert isinstance(read_train_settings(Path(__file__).parents[2] / "configs" / f"mini-{name}.yaml"), kind)

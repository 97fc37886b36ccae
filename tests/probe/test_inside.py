"""The analysis methods: numbers known by construction, weights restored to the last bit, and the verb."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from scipy.stats import beta
from support.fakes import mini_data
from support.tiny import tiny_adapter, tiny_checkpoint
from support.tiny_architectures import built
from torch import nn
from transformers import AutoModelForImageTextToText
from typer.testing import CliRunner

from mis_lib.cli.main import app
from mis_lib.data.tasks import TASKS
from mis_lib.errors import DataError, ModelError, SettingsError
from mis_lib.files import read_records, write_records
from mis_lib.generate.engine import use_adapter
from mis_lib.models.edits import Edit, apply, edited, undo
from mis_lib.models.load import LoadedModel, load_model
from mis_lib.probe import figures, formats, safeground, separation, spectrum
from mis_lib.probe.prompted import Pair, continued, pairs_of, prompts, prompts_of
from mis_lib.probe.safeground import (
    CONTROLS,
    Likelihoods,
    Quadruple,
    control,
    find_edit,
    saliency,
    weight_scores,
)
from mis_lib.results.figures.style import colours_of, write_page
from mis_lib.schema import Outcome, Response, Sample, Verdict


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy checkpoint with an adapter, and data whose benign answers name the differing object; "train" is a copy."""
    root = tmp_path_factory.mktemp("inside")
    tiny_checkpoint(root / "model")
    tiny_adapter(root / "model", root / "one", 1)
    samples = read_records(mini_data(root / "data") / "hard.jsonl", Sample)
    answered = [
        sample.model_copy(
            update={"answer": f"The pictures are clear. Hand it to the {(sample.objects or ['it'])[-1]}."}
        )
        for sample in samples
    ]
    for split in ("hard", "train"):
        write_records(root / "data" / f"{split}.jsonl", answered)
    return root


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return load_model(folder / "model", {"one": folder / "one"}, dtype=torch.float32)


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """The adapter's update added to the checkpoint's weights, as full tuning would leave them."""
    loaded: Any = load_model(folder / "model", {"one": folder / "one"}, dtype=torch.float32)
    loaded.model.merge_and_unload().save_pretrained(folder / "whole")
    loaded.processor.save_pretrained(folder / "whole")
    return folder / "whole"


@pytest.fixture(scope="module")
def pairs(folder: Path) -> list[Pair]:
    return pairs_of(read_records(folder / "data" / "hard.jsonl", Sample))[:6]


class TestSeparation:
    """Clouds whose distance is known."""

    def clouds(self, apart: float, pairs: int = 60, dimensions: int = 8) -> np.ndarray:
        draw = np.random.default_rng(0)
        states = draw.standard_normal((pairs, 2, dimensions))
        states[:, 0, 0] += apart
        return states

    def test_the_distance_is_the_one_that_was_put_in(self) -> None:
        for apart in (0.0, 3.0, 9.0):
            value, low, high = separation.class_distance(self.clouds(apart, pairs=150))
            expected = apart / np.sqrt(8)  # in units of the spread over all dimensions
            assert low <= expected <= high
            assert value == pytest.approx(expected, abs=0.15)

    def test_the_probe_finds_what_is_there_and_nothing_else(self) -> None:
        apart, low, high = separation.probe_accuracy(self.clouds(6.0))
        assert apart > 95
        assert low <= apart <= high
        _, low, high = separation.probe_accuracy(self.clouds(0.0))
        assert low < 50 < high
        shuffled, least, most = separation.shuffled_accuracy(self.clouds(6.0))
        assert 30 < least <= shuffled <= most < 70

    def test_where_all_is_right_the_interval_is_wilsons_on_pairs(self) -> None:
        states = self.clouds(0.0, pairs=20)
        states[:, 0] += 100
        value, low, high = separation.probe_accuracy(states)
        assert (value, round(low, 1), high) == (100.0, 83.9, 100.0)

    def test_a_pair_is_never_cut(self) -> None:
        """Items alike within a pair: a probe that saw the twin takes an item for its kind, others know nothing."""
        draw = np.random.default_rng(1)
        own = draw.standard_normal((80, 1, 40)) * 10
        states = np.repeat(own, 2, axis=1) + 0.01 * draw.standard_normal((80, 2, 40))
        assert 35 < separation.probe_accuracy(states)[0] < 65

    def test_twins_that_come_out_alike_count_as_one(self) -> None:
        states = self.clouds(20.0)
        states[::3, :, 0] = states[
            ::3, ::-1, 0
        ]  # of every third pair the kinds are exchanged: both are taken for the other
        value, low, high = separation.probe_accuracy(states)
        assert value == pytest.approx(200 / 3, abs=2)
        assert high - low == pytest.approx(2 * 196 * np.sqrt(2 / 9 / 60), rel=0.12)  # of 60 pairs, not of 120 items

    def test_the_distance_of_a_few_pairs_by_hand(self) -> None:
        """Differences 4, 2 and 3: mean 3, variance 1; harmful 4, 4, 5 over benign 0, 2, 2: variances 1/3 and 4/3."""
        states = np.array([[[4.0], [0.0]], [[4.0], [2.0]], [[5.0], [2.0]]])

        def squared(differences: list[float], kinds: tuple[list[float], list[float]]) -> float:
            noise = np.var(differences, ddof=1) / len(differences)
            return float((np.mean(differences) ** 2 - noise) / np.mean([np.var(kind, ddof=1) for kind in kinds]))

        whole = squared([4, 2, 3], ([4, 4, 5], [0, 2, 2]))
        assert whole == pytest.approx((9 - 1 / 3) / (5 / 6))
        less = [squared([2, 3], ([4, 5], [2, 2])), squared([4, 3], ([4, 5], [0, 2])), squared([4, 2], ([4, 4], [0, 2]))]
        reach = 1.96 * np.sqrt(2 / 3 * np.square(less - np.mean(less)).sum())
        found = separation.class_distance(states)
        assert found == pytest.approx((np.sqrt(whole), np.sqrt(max(0.0, whole - reach)), np.sqrt(whole + reach)))

    def test_states_are_those_of_the_last_prompt_token(
        self, model: LoadedModel, pairs: list[Pair], folder: Path
    ) -> None:
        states = separation.hidden_states(model, {"base": None, "one": "one"}, pairs, folder / "data", batch_size=5)
        assert states["base"].shape == (len(pairs), 2, 3, 32)
        assert np.ptp(states["base"][:, :, 0], axis=(0, 1)).max() < 1e-6  # the last prompt token is everywhere the same
        assert not np.allclose(states["base"][:, :, -1], states["one"][:, :, -1])
        alone = separation.hidden_states(model, {"base": None}, pairs[:1], folder / "data", batch_size=1)["base"]
        np.testing.assert_allclose(alone[0], states["base"][0], atol=1e-4)
        inputs = prompts_of(model, list(pairs[0]), folder / "data")
        with torch.inference_mode(), use_adapter(model.model, None):
            read = model.network(**inputs, output_hidden_states=True).hidden_states
        np.testing.assert_allclose(alone[0, :, 2], read[2][:, -1].numpy(), atol=1e-5)
        assert separation.clusters(states, 1)["harmful"].tolist() == [True, False] * 2 * len(pairs)
        frame = separation.separation(states)
        assert len(frame) == 2 * 3 * 3
        assert (frame[(frame.layer == 0) & (frame.measure == "distance")].value == 0).all()
        assert ((frame.low <= frame.value + 1e-9) & (frame.value <= frame.high + 1e-9)).all()
        with pytest.raises(DataError, match="layer from 0 to 2"):
            separation.clusters(states, 3)
        with pytest.raises(DataError, match="at least 5 pairs"):
            separation.separation({"base": states["base"][:4]})


class TestSpectrum:
    """Updates that point where the test wants them to."""

    def wrapped(self, up_O: np.ndarray, down_I: np.ndarray) -> LoadedModel:
        """A layer whose weight is diag(10, 10, 10, 0.1) with the update up x down."""

        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layers = nn.ModuleList([nn.ModuleDict({"proj": nn.Linear(4, 4, bias=False)})])

        network = Net()
        layer: Any = network.layers[0]
        layer["proj"].weight.data = torch.diag(torch.tensor([10.0, 10.0, 10.0, 0.1]))
        config = LoraConfig(r=1, lora_alpha=1, target_modules=["proj"])
        tuned: Any = get_peft_model(network, config, adapter_name="one")  # pyright: ignore[reportArgumentType]
        lora = tuned.base_model.model.layers[0]["proj"]
        lora.lora_B["one"].weight.data = torch.tensor(up_O, dtype=torch.float32)[:, None]
        lora.lora_A["one"].weight.data = torch.tensor(down_I, dtype=torch.float32)[None]
        return LoadedModel(tuned, None)  # pyright: ignore[reportArgumentType]

    def test_shares_are_where_the_update_points(self) -> None:
        strong, weak = np.array([1.0, 0, 0, 0]), np.array([0, 0, 0, 1.0])
        into_null = spectrum.spectrum(self.wrapped(weak, strong), ["one"]).layers.iloc[0]
        assert (into_null.output_share, into_null.input_share) == (pytest.approx(100), pytest.approx(0))
        away = spectrum.spectrum(self.wrapped(strong, (strong + weak) / np.sqrt(2)), ["one"]).layers.iloc[0]
        assert (away.output_share, away.input_share) == (pytest.approx(0), pytest.approx(50))
        assert (away["layer"], away.module, away.stable_rank) == (0, "proj", pytest.approx(1))
        assert away.weak_outputs == 0.25
        chance = (away.output_chance_low, away.output_chance, away.output_chance_high)
        of_four = beta(0.5, 1.5)  # a random update's share along one of four directions
        assert chance == pytest.approx((100 * of_four.ppf(0.025), 25, 100 * of_four.ppf(0.975)), abs=8)
        doubled = spectrum.spectrum(self.wrapped(2 * strong, strong), ["one"]).layers.iloc[0]
        assert (doubled.stable_rank, doubled["size"]) == (pytest.approx(1), pytest.approx(2 / np.sqrt(300.01)))
        assert away["size"] == pytest.approx(1 / np.sqrt(300.01))

    def test_what_the_weight_cannot_see_is_its_null_space(self) -> None:
        loaded = self.wrapped(np.ones(4), np.ones(4))
        lora: Any = next(module for name, module in loaded.model.named_modules() if name.endswith("proj"))
        lora.base_layer.weight.data = torch.cat([torch.eye(4), torch.zeros(4, 2)], dim=1)  # two inputs more, unseen
        lora.lora_A["one"].weight.data = torch.tensor([[1.0, 0, 0, 0, 0, 1.0]])
        row = spectrum.spectrum(loaded, ["one"]).layers.iloc[0]
        assert (row.input_share, row.weak_inputs) == (pytest.approx(50), pytest.approx(2 / 6))
        assert row.weak_outputs == 0

    def test_curves_end_at_all_of_it(self) -> None:
        curves = spectrum.spectrum(self.wrapped(np.ones(4), np.ones(4)), ["one"]).curves
        last = curves[curves.directions == 100]
        assert last.energy.tolist() == [pytest.approx(100)] * 2
        assert curves[curves.directions == 50].energy.tolist() == [pytest.approx(50)] * 2

    def test_the_figure_tells_n_and_holds_every_share(self) -> None:
        found = spectrum.spectrum(self.wrapped(np.ones(4), np.ones(4)), ["one"])
        figure: Any = figures.spectrum(found.layers, found.curves)
        assert "n = 1 linear layers" in figure.layout.title.text
        drawn = [list(trace.y) for trace in figure.data if trace.name == "one" and trace.mode != "none"]
        for share in (found.layers.output_share, found.layers.input_share):
            assert share.tolist() in drawn
        assert all(axis.title.text for axis in figure.select_xaxes())
        assert figures.spectrum(found.layers.iloc[:0], found.curves).layout.annotations[0].text  # pyright: ignore[reportAttributeAccessIssue]

    def test_answers_are_the_updates_outputs(self, model: LoadedModel, pairs: list[Pair], folder: Path) -> None:
        frame = spectrum.responses(model, ["one"], pairs, folder / "data", batch_size=4)
        assert sorted(set(frame["layer"])) == [0, 1]
        assert set(frame.n) == {len(pairs)}
        assert (frame.value > 0).all()
        again = spectrum.responses(model, ["one"], pairs, folder / "data", batch_size=12)
        np.testing.assert_allclose(frame.value, again.value, rtol=1e-4)
        layers: Any = [
            module
            for name, module in model.model.named_modules()
            if isinstance(module, Linear) and "one" in module.lora_A and ".layers.1." in name
        ]
        seen: dict[Any, torch.Tensor] = {}
        hooks = [one.register_forward_pre_hook(lambda to, given: seen.update({to: given[0][:, -1]})) for one in layers]
        with torch.inference_mode(), use_adapter(model.model, "one"):
            model.network(**prompts_of(model, [item for pair in pairs for item in pair], folder / "data"))
            ratios = [
                (seen[one] @ one.get_delta_weight("one").T).norm(dim=-1)
                / (seen[one] @ one.base_layer.weight.T).norm(dim=-1)
                for one in layers
            ]
        for hook in hooks:
            hook.remove()
        percent = 100 * torch.stack(ratios).mean(0).reshape(-1, 2).numpy()
        for column, harmful in enumerate((True, False)):
            (row,) = frame[(frame.layer == 1) & (frame.harmful == harmful)].itertuples()
            mean, error = percent[:, column].mean(), percent[:, column].std(ddof=1) / np.sqrt(len(pairs))
            assert (row.value, row.low, row.high) == pytest.approx(
                (mean, mean - 1.96 * error, mean + 1.96 * error), rel=1e-3
            )

    def test_a_whole_checkpoint_has_the_update_of_the_adapter_merged_into_it(
        self, model: LoadedModel, whole: Path, pairs: list[Pair], folder: Path
    ) -> None:
        tuned = {"whole": load_model(whole)}
        layers, curves = spectrum.spectrum(model, ["one"], tuned)
        one, other = (layers[layers.variant == name].reset_index() for name in ("one", "whole"))
        assert len(one) == 6
        assert other[["layer", "module"]].equals(one[["layer", "module"]])
        assert set(one["rank"]) == {4}
        assert set(other["rank"]) == {16, 32}  # as many as the smaller side: nothing says that it is low
        measured = ["size", "stable_rank", "output_share", "input_share", "weak_outputs", "weak_inputs"]
        np.testing.assert_allclose(other[measured], one[measured], rtol=1e-4)
        energy = curves.pivot(index=["side", "directions"], columns="variant", values="energy")
        np.testing.assert_allclose(energy["whole"], energy["one"], atol=1e-3)
        assert (
            other.output_chance_high - other.output_chance_low < one.output_chance_high - one.output_chance_low
        ).all()
        answers = spectrum.responses(model, ["one"], pairs, folder / "data", tuned, batch_size=4)
        one, other = (
            answers[answers.variant == name].drop(columns="variant").astype(float) for name in ("one", "whole")
        )
        np.testing.assert_allclose(other, one, rtol=1e-3)

    def test_a_random_change_of_a_whole_weight_is_chance(self) -> None:
        draws = torch.Generator().manual_seed(0)
        weight, change = torch.randn(48, 96, generator=draws).double(), torch.randn(48, 96, generator=draws).double()
        left, _, right = torch.linalg.svd(weight, full_matrices=False)
        for directions, near in ((left.T, change), (right, change.T)):
            energy = spectrum._energy(directions, near)  # pyright: ignore[reportPrivateUsage]
            assert energy.sum() == pytest.approx(1)
            assert energy[24:48].sum() == pytest.approx(24 / len(energy), abs=0.03)

    def test_what_was_not_tuned_from_the_base_is_refused_by_name(
        self, model: LoadedModel, folder: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(ModelError, match=r"'same'.*all weights equal"):
            spectrum.spectrum(model, [], {"same": load_model(folder / "model")})
        other = load_model(folder / "model")
        layer: Any = other.network.get_submodule("model.language_model.layers.0.mlp.up_proj")
        layer.weight = nn.Parameter(torch.zeros(65, 32))
        with pytest.raises(ModelError, match=r"'other'.*up_proj.weight of \(65, 32\).*the base has one of \(64, 32\)"):
            spectrum.spectrum(model, [], {"other": other})

    def test_experts_are_refused_by_name(self, tmp_path: Path) -> None:
        checkpoint = built("qwen3_vl_moe", tmp_path / "experts")
        network: Any = AutoModelForImageTextToText.from_pretrained(checkpoint)
        config = LoraConfig(r=2, target_modules=["q_proj"], target_parameters=["mlp.experts.down_proj"])
        get_peft_model(network, config).save_pretrained(tmp_path / "one")
        loaded = load_model(checkpoint, {"one": tmp_path / "one"})
        with pytest.raises(ModelError, match=r"'one': expected LoRA on linear layers, found .*experts, down_proj of"):
            spectrum.spectrum(loaded, ["one"])
        plain, tuned = load_model(checkpoint), load_model(checkpoint)
        name, experts = next(
            (name, one) for name, one in tuned.network.named_parameters() if name.endswith("experts.down_proj")
        )
        experts.data += 1
        with pytest.raises(ModelError, match=rf"'tuned'.*found {name}"):
            spectrum.spectrum(plain, [], {"tuned": tuned})
        unused = Quadruple("one", "What is it?", [], [], "safe", "unsafe")
        with pytest.raises(SettingsError, match=r"also matches the experts' weights .*down_proj"):
            find_edit(plain, [unused])

    def test_a_plain_checkpoint_has_no_update(self, folder: Path) -> None:
        with pytest.raises(ModelError, match="expected a model with adapters"):
            spectrum.spectrum(load_model(folder / "model"), ["one"])


class TestFormats:
    """Wrapping, and rates by hand."""

    def test_a_format_wraps_the_question_and_keeps_pairs_together(self, pairs: list[Pair]) -> None:
        harmful, benign = pairs[0]
        for name in TASKS:
            one, other = formats.in_format(harmful, name), formats.in_format(benign, name)
            assert harmful.question in one.question
            assert one.twin_id == other.id
            assert formats.format_of(one.id) == name
            read = formats.judged([one, harmful])
            assert [sample.question for sample in read] == [harmful.question] * 2
            assert read[0].id == one.id
        assert formats.in_format(harmful, "question").question == harmful.question
        with pytest.raises(SettingsError, match="unknown format 'poem'"):
            formats.in_format(harmful, "poem")

    def test_rates_are_counted_by_format(self, pairs: list[Pair]) -> None:
        asked = [formats.in_format(item, name) for name in ("question", "code") for pair in pairs[:2] for item in pair]
        unsafe = {"question": 1, "code": 2}
        verdicts, counted = [], {"question": 0, "code": 0}
        for sample in asked:
            name = formats.format_of(sample.id)
            counted[name] += sample.harmful
            outcome = Outcome.HELPED if not sample.harmful else Outcome.REASONED
            if sample.harmful and counted[name] <= unsafe[name]:
                outcome = Outcome.UNSAFE
            verdicts.append(Verdict(sample_id=sample.id, variant="one", judge="rule", outcome=outcome))
        responses = [
            Response(sample_id=sample.id, variant="one", text="x", tokens=1, seconds=0, finish_reason="stop")
            for sample in asked
        ]
        frame = formats.by_format(asked, responses, verdicts).set_index(["format", "metric"])
        assert frame.loc[("question", "asr"), "value"] == 50
        assert frame.loc[("code", "asr"), "value"] == 100
        assert frame.loc[("question", "over_refusal"), "value"] == 0
        assert frame.loc[("code", "pair"), "value"] == 0
        assert set(frame.n) == {2}


class TestSafeGround:
    """Four numbers a quadruple, judged by hand."""

    def test_scores_by_hand(self) -> None:
        grounded = (-1.0, -2.0, -2.0, -3.0)
        worst = (-3.0, -2.0, -2.0, -1.0)
        one = Likelihoods(*np.array([grounded, worst, (-1.0, -2.0, -0.5, -1.0)]).T)
        hits = {name: found.tolist() for name, found in safeground.judged(one).items()}
        assert hits == {
            "text": [True, False, True],
            "image": [True, False, False],
            "safe": [True, False, False],
            "unsafe": [True, False, False],
            "group": [True, False, False],
        }
        frame = safeground.scores({"one": one}).set_index("score")
        assert frame.loc["text", "value"] == pytest.approx(200 / 3)
        assert frame.loc["group", "n"] == 3

    def test_chance_is_that_of_random_orders(self) -> None:
        draws = Likelihoods(*np.random.default_rng(0).standard_normal((4, 40_000)))
        for name, hits in safeground.judged(draws).items():
            assert 100 * hits.mean() == pytest.approx(safeground.CHANCE[name], abs=1)

    def test_the_other_object_takes_the_place_of_the_first(self) -> None:
        def item(objects: list[str], answer: str, harmful: bool) -> Sample:
            return Sample(id="a", question="?", images=["1", "2"], objects=objects, answer=answer, harmful=harmful)

        benign = item(["cup", "old man"], "I see both. Pour it for an old man. Old man first, then the cup.", False)
        harmful = item(["cup", "rat"], "No.", True)
        segments = [{"kind": "perception", "start": 0, "end": 11}]
        described = Sample.model_validate({**benign.model_dump(), "segments": segments})
        assert safeground.exchanged(Pair(harmful, described)) == (
            "Pour it for an old man. Old man first, then the cup.",
            "Pour it for a rat. Rat first, then the cup.",
        )
        silent = item(["cup", "old man"], "Pour it.", False)
        assert safeground.exchanged(Pair(harmful, silent)) is None

    def test_likelihoods_are_the_models_own(self, model: LoadedModel, pairs: list[Pair], folder: Path) -> None:
        items = safeground.quadruples(pairs[:2], folder / "data")
        found = safeground.likelihoods(model, "one", items)
        processor: Any = model.processor
        item, network = items[1], model.model
        text = torch.tensor(processor.tokenizer(item.unsafe_text, add_special_tokens=False)["input_ids"])
        inputs = continued(prompts(model, [item.safe_images], [item.question]), text)
        network.set_adapter("one")  # pyright: ignore[reportCallIssue]
        loss = network(**inputs, labels=_labels(inputs["input_ids"], len(text))).loss
        assert found.safe_unsafe[1] == pytest.approx(-loss.item(), rel=1e-4)
        assert not np.isclose(found.safe_unsafe[1], found.safe_safe[1])


def _labels(ids_BT: torch.Tensor, answer: int) -> torch.Tensor:
    labels = torch.full_like(ids_BT, -100)
    labels[:, -answer:] = ids_BT[:, -answer:]
    return labels


class TestWeightEdit:
    """Which weights, and back again."""

    @pytest.fixture
    def plain(self, folder: Path) -> LoadedModel:
        return load_model(folder / "model", dtype=torch.float32)

    @pytest.fixture
    def items(self, pairs: list[Pair], folder: Path) -> list[Quadruple]:
        return safeground.quadruples(pairs[:3], folder / "data")

    def test_the_weights_are_those_of_the_formula(self, plain: LoadedModel, items: list[Quadruple]) -> None:
        """Saliency, smoothing, ratio and mass written out on full matrices."""
        name = "model.language_model.layers.1.mlp.down_proj"
        layer = dict(plain.model.named_modules())[name]
        weight: Any = layer.weight.detach().abs()
        processor: Any = plain.processor
        ratios = []
        for item in items:
            smoothed = []
            for images, text in ((item.safe_images, item.safe_text), (item.unsafe_images, item.unsafe_text)):
                seen: list[torch.Tensor] = []
                hook = layer.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0][0]))
                ids = torch.tensor(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
                plain.model(**continued(prompts(plain, [images], [item.question]), ids))
                hook.remove()
                saliency = weight * seen[0].norm(dim=0)
                smoothed.append(torch.outer(saliency.mean(1), saliency.mean(0)) / seen[0].std(dim=0))
            ratios.append(smoothed[1] / smoothed[0])
        score = (torch.stack(ratios).mean(0) * weight).flatten().double()
        order = score.argsort()
        expected = set(order[(score[order] / score.sum()).cumsum(0) > 0.9].tolist())
        found = set(find_edit(plain, items, layers=r"layers\.1\.mlp\.down_proj", tau=0.9).indices[name].tolist())
        assert expected
        assert len(found ^ expected) <= 1  # sums in another order may tip the weight at the border
        largest = score.argmax().item()
        assert largest in found

    def test_the_scores_of_a_layer_worked_by_hand(self) -> None:
        """Two tokens, two features; the unsafe input has the first feature twice as large and nothing else changed.

        Norms: 5 and 2 safe, 10 and 2 unsafe. Row means of |W| times norms: 9/2 and 23/2 safe, 7 and 19 unsafe. Column
        means: 10 and 6 safe, 20 and 6 unsafe. The spread of feature 1 doubles with it, so no column stands out.
        """
        weight = torch.tensor([[1.0, -2.0], [-3.0, 4.0]])
        safe = saliency(torch.tensor([[3.0, 0.0], [4.0, 2.0]]), weight)
        unsafe = saliency(torch.tensor([[6.0, 0.0], [8.0, 2.0]]), weight)
        ratio = torch.tensor([[14 / 9, 14 / 9], [38 / 23, 38 / 23]])
        assert torch.allclose(weight_scores([(safe, unsafe)], weight, "vision"), ratio)
        assert torch.allclose(weight_scores([(safe, unsafe)], weight, "text"), ratio * weight.abs())
        assert torch.allclose(weight_scores([(safe, unsafe), (safe, safe)], weight, "vision"), (ratio + 1) / 2)

    def test_controls_change_as_many_weights_of_each_layer(self, plain: LoadedModel, items: list[Quadruple]) -> None:
        edit = find_edit(plain, items, tau=0.9)
        largest, random = (control(plain, edit, kind) for kind in CONTROLS)
        modules: Any = dict(plain.model.named_modules())
        for name, chosen in edit.indices.items():
            sizes = modules[name].weight.detach().abs().flatten()
            assert len(largest.indices[name]) == len(random.indices[name].unique()) == len(chosen)
            kept = torch.ones(len(sizes), dtype=torch.bool)
            kept[largest.indices[name]] = False
            assert sizes[~kept].min() >= sizes[kept].max()
        assert edit.overlap(edit) == 100
        assert edit.overlap(random) < 50
        assert 0 < find_edit(plain, items, tau=0.9, weigh="vision").overlap(edit) < 100

    def test_an_edit_is_undone_to_the_last_bit(
        self, plain: LoadedModel, items: list[Quadruple], folder: Path, tmp_path: Path
    ) -> None:
        before = {name: weight.clone() for name, weight in plain.model.state_dict().items()}
        edit = find_edit(plain, items, tau=0.8, alpha=0.3)
        assert 0 < edit.share < 20
        edit.save(tmp_path / "edit.safetensors", folder / "model")
        stored = Edit.read(tmp_path / "edit.safetensors", folder / "model")
        assert (stored.alpha, stored.tau, stored.share) == (0.3, 0.8, edit.share)
        with pytest.raises(KeyboardInterrupt), edited(plain.network, stored):
            changed = [
                name for name, weight in plain.model.state_dict().items() if not torch.equal(weight, before[name])
            ]
            assert {name.removesuffix(".weight") for name in changed} == set(edit.indices)
            raise KeyboardInterrupt
        assert all(torch.equal(weight, before[name]) for name, weight in plain.model.state_dict().items())
        kept = apply(plain.network, edit)
        undo(plain.network, edit, kept)
        assert all(torch.equal(weight, before[name]) for name, weight in plain.model.state_dict().items())

    def test_what_does_not_fit_changes_nothing(
        self, plain: LoadedModel, items: list[Quadruple], folder: Path, tmp_path: Path
    ) -> None:
        edit = find_edit(plain, items)
        first = next(iter(edit.indices))
        foreign = Edit({first: edit.indices[first], "elsewhere": torch.tensor([0])}, -1.0, 0.9, 1)
        before = dict(plain.model.named_modules())[first].weight.clone()  # pyright: ignore[reportCallIssue]
        with pytest.raises(ModelError, match="layer elsewhere is missing"):
            apply(plain.network, foreign)
        assert torch.equal(dict(plain.model.named_modules())[first].weight, before)  # pyright: ignore[reportArgumentType]
        (tmp_path / "edit.safetensors").write_bytes(b"nothing")
        with pytest.raises(ModelError, match="expected a weight edit"):
            Edit.read(tmp_path / "edit.safetensors", folder / "model")
        for wrong in ({"tau": 1.0}, {"layers": "nowhere"}):
            with pytest.raises(SettingsError):
                find_edit(plain, items, **wrong)


class TestFigures:
    """Every figure has its units, its n, and something to say where there is nothing to draw."""

    def frames(self) -> dict[str, tuple[Any, pd.DataFrame]]:
        variants = ["mini", "mirage"]
        rate = {"value": 50.0, "low": 40.0, "high": 60.0, "n": 24}
        by_layer = [{"variant": v, "layer": i, **rate} for v in variants for i in range(3)]
        measures = [{**row, "measure": m} for row in by_layer for m in ("probe", "shuffled", "distance")]
        points = [
            {"variant": v, "pair": i, "harmful": h, "x": i, "y": i, "x_share": 40.0, "y_share": 20.0}
            for v in variants for i in range(3) for h in (True, False)
        ]  # fmt: skip
        told = [
            {"variant": v, "format": f, "metric": m, "n_unscored": 0, **rate}
            for v in variants
            for f in TASKS
            for m in formats.SHOWN
        ]
        scored = [{"variant": v, "score": s, "chance": 25.0, **rate} for v in variants for s in safeground.SCORES]
        return {
            "separation": (figures.separation, pd.DataFrame(measures)),
            "clusters": (lambda frame: figures.clusters(frame, layer=7), pd.DataFrame(points)),
            "responses": (
                figures.responses,
                pd.DataFrame([{**r, "harmful": h} for r in by_layer for h in (True, False)]),
            ),
            "formats": (figures.formats, pd.DataFrame(told)),
            "safeground": (figures.safeground, pd.DataFrame(scored)),
        }  # fmt: skip

    def test_titles_tell_n_and_axes_have_names(self) -> None:
        for name, (draw, frame) in self.frames().items():
            figure: go.Figure = draw(frame)
            assert "n = " in figure.layout.title.text, name  # pyright: ignore[reportAttributeAccessIssue]
            named = [axis.title.text for axis in figure.select_xaxes()] + [a.text for a in figure.layout.annotations]  # pyright: ignore[reportAttributeAccessIssue]
            assert any(named), name
            assert {"mini", "mirage"} <= {trace.name for trace in figure.data} | {
                note.split()[0] for note in named if note
            }, name

    def test_the_axis_cuts_no_interval_of_a_probe(self) -> None:
        draw, frame = self.frames()["separation"]
        assert draw(frame).layout.yaxis.range == (30, 102)
        few = frame.assign(low=frame.low.where(frame.measure != "probe", 25.4))  # 6 of 12 pairs
        assert draw(few).layout.yaxis.range[0] < 25.4

    def test_nothing_and_the_wrong_thing(self) -> None:
        for name, (draw, frame) in self.frames().items():
            assert "mis analyse" in draw(frame.iloc[:0]).layout.annotations[0].text, name
            with pytest.raises(DataError, match="expected a frame with the columns"):
                draw(frame.drop(columns=["variant"]))

    def test_a_variant_keeps_its_colour_and_a_page_calls_nobody(self, tmp_path: Path) -> None:
        assert colours_of(["mirage", "mini"])["mini"] == colours_of(["mini", "own"])["mini"]
        assert len(set(colours_of(["own", "mini", "mirage", "textual"]).values())) == 4
        draw, frame = self.frames()["formats"]
        write_page(tmp_path / "page.html", draw(frame), title="formats </title><script>")
        page = (tmp_path / "page.html").read_text()
        assert "<script src" not in page and "<title>formats &lt;/title&gt;&lt;script&gt;</title>" in page
        assert "<link" not in page.split("<body>")[0]


class TestCommand:
    """``mis analyse`` on the toy model."""

    def run(self, folder: Path, method: str, *flags: str) -> Any:
        common = ["analyse", method, "--checkpoint", str(folder / "model"), "--adapters", f"one={folder / 'one'}"]
        data = ["--data", str(folder / "data"), "--limit", "5", "--runs", str(folder / "runs")]
        return CliRunner().invoke(app, [*common, *data, *flags])

    @pytest.mark.parametrize(
        ("method", "frames"),
        [
            ("separation", {"separation", "clusters"}),
            ("spectrum", {"spectrum", "curves", "responses"}),
            ("safeground", {"safeground", "likelihoods", "edits"}),
            ("formats", {"formats"}),
        ],
    )
    def test_frames_and_figures_lie_in_the_run_folder(self, folder: Path, method: str, frames: set[str]) -> None:
        flags = ["--set", "generation.max_new_tokens=4", "calibration=2", "taus=[0.9]"]
        result = self.run(folder, method, "--json", *(part for flag in flags[1:] for part in ("--set", flag)))
        assert result.exit_code == 0, result.output
        shown = json.loads(result.stdout)
        run = Path(shown.pop("run"))
        assert set(shown) == frames
        for name in frames:
            assert len(pd.read_csv(run / f"{name}.csv")) == len(shown[name]) > 0
        assert (run / "settings.yaml").exists()
        assert list(run.glob("*.html"))
        assert (run.name, list(run.glob("edit-0.9.safetensors")) != []) == ("v1", method == "safeground")

    def test_a_whole_checkpoint_is_a_variant_of_what_it_was_tuned_from(self, folder: Path, whole: Path) -> None:
        both = ["--adapters", f"whole={whole}", "--json"]
        for method in ("separation", "spectrum"):
            result = self.run(folder, method, *both)
            assert result.exit_code == 0, result.output
            frame = pd.DataFrame(json.loads(result.stdout)[method])
            if method == "separation":
                frame = frame[frame.measure == "distance"]  # of few items, a probe can turn one on a rounding
            values = "value" if method == "separation" else "output_share"
            one, other = (frame[frame.variant == name][values].tolist() for name in ("one", "whole"))
            assert len(one) > 0
            assert other == pytest.approx(one, rel=0.01)
        result = self.run(folder, "safeground", *both)
        assert result.exit_code == 2
        assert "expected a PEFT folder, found a whole checkpoint" in " ".join(result.output.split())

    def test_an_edit_has_no_spectrum(self, folder: Path) -> None:
        name = "model.language_model.layers.0.self_attn.o_proj"
        Edit({name: torch.tensor([0])}, -1.0, 0.9, 1).save(folder / "edit.safetensors", folder / "model")
        result = self.run(folder, "spectrum", "--adapters", f"edit={folder / 'edit.safetensors'}")
        assert result.exit_code == 2
        assert "expected adapters and whole checkpoints, found edit" in " ".join(result.output.split())

    @pytest.mark.parametrize("method", ["separation", "formats"])
    def test_a_data_file_is_read_as_one_split(self, folder: Path, method: str) -> None:
        flags = ["--data", str(folder / "data" / "hard.jsonl"), "--set", "generation.max_new_tokens=4", "--json"]
        result = self.run(folder, method, *flags)
        assert result.exit_code == 0, result.output

    def test_edits_are_not_tested_on_the_pairs_that_they_were_found_with(self, folder: Path) -> None:
        flags = ["--data", str(folder / "data" / "hard.jsonl"), "--json", "--set"]
        result = self.run(folder, "safeground", *flags, "taus=[0.9]")
        assert result.exit_code == 2
        assert "are calibrated, found the file" in " ".join(result.output.split())
        result = self.run(folder, "safeground", *flags, "taus=[]")
        assert result.exit_code == 0, result.output

    @pytest.mark.parametrize(
        ("method", "flags", "message"),
        [
            ("separation", ["--variants", "two"], "unknown 'two'"),
            ("spectrum", ["--variants", "base"], "at least one tuned variant"),
            ("formats", ["--formats", "poem"], "unknown format 'poem'"),
            ("separation", ["--splits", "general"], "expected the data file of split 'general'"),
            ("dance", [], "dance"),
        ],
    )
    def test_mistakes_are_named(self, folder: Path, method: str, flags: list[str], message: str) -> None:
        result = self.run(folder, method, *flags)
        assert result.exit_code == 2
        assert message in " ".join(result.output.split())

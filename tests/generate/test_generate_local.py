"""Batched generation: answers as one at a time, adapters kept apart, a killed run ends as an undisturbed one."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from support.fakes import mini_data
from support.tiny import tiny_adapter, tiny_checkpoint

from mis_lib.errors import AdapterWarning, ImageError, ModelError, SettingsError
from mis_lib.files import read_records
from mis_lib.generate.batch import RESPONSES, generate, plan_batches
from mis_lib.models.adapters import write_base
from mis_lib.models.load import LoadedModel, load_model
from mis_lib.schema import Response, Sample
from mis_lib.settings import GenerationSettings

SHORT = GenerationSettings(max_new_tokens=8)
VARIANTS = {"base": None, "one": "one", "two": "two"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def adapters(checkpoint: Path) -> dict[str, Path | None]:
    folder = checkpoint.parent
    return {
        "base": None,
        **{name: tiny_adapter(checkpoint, folder / name, seed) for seed, name in enumerate(["one", "two"], 1)},
    }


@pytest.fixture(scope="module")
def model(checkpoint: Path, adapters: dict[str, Path | None]) -> LoadedModel:
    return load_model(checkpoint, adapters)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def samples(data: Path) -> list[Sample]:
    drawn = read_records(data / "hard.jsonl", Sample)[:4]
    first = drawn[0]
    return [
        *drawn,
        first.model_copy(update={"id": "one-image", "images": first.images[:1]}),
        first.model_copy(update={"id": "three-images", "images": [*first.images, first.images[0]], "question": "Why?"}),
    ]


def test_attaching_adapters_warns_of_nothing(checkpoint: Path, adapters: dict[str, Path | None]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(checkpoint, adapters)


def texts(responses: list[Response]) -> dict[tuple[str, str], str]:
    return {(response.sample_id, response.variant): response.text for response in responses}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, samples, data, model) -> Path:
    """Folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(folder, samples, data, model)
    return folder


def run(folder: Path, samples: list[Sample], data: Path, model: LoadedModel, batch_size: int = 4) -> list[Response]:
    folder.mkdir(exist_ok=True)
    return list(generate(samples, data, model, VARIANTS, SHORT, folder, batch_size=batch_size))


def test_batches_say_what_single_questions_say(tmp_path, samples, data, model, whole) -> None:
    together = read_records(whole / RESPONSES, Response)
    alone = run(tmp_path / "b", samples, data, model, batch_size=1)
    assert texts(together) == texts(alone)
    assert len(together) == len(samples) * len(VARIANTS)


def test_variants_differ_and_the_base_is_the_checkpoint_alone(tmp_path, samples, data, model, checkpoint) -> None:
    answers = texts(run(tmp_path / "a", samples[:2], data, model))
    assert len({answers[samples[0].id, variant] for variant in VARIANTS}) == 3
    (tmp_path / "b").mkdir()
    bare = load_model(checkpoint)
    plain = texts(list(generate(samples[:2], data, bare, {"base": None}, SHORT, tmp_path / "b", batch_size=4)))
    assert all(answers[key] == text for key, text in plain.items())


def test_images_matter(tmp_path, samples, data, model) -> None:
    other = samples[0].model_copy(update={"id": "swapped", "images": samples[0].images[::-1]})
    answers = texts(run(tmp_path / "a", [samples[0], other], data, model))
    assert answers[samples[0].id, "base"] != answers["swapped", "base"]


def test_second_run_generates_nothing(samples, data, model, whole) -> None:
    before = (whole / RESPONSES).read_bytes()
    assert run(whole, samples, data, model) == []
    assert (whole / RESPONSES).read_bytes() == before


@pytest.mark.parametrize("cut", [1, 333, 1500])
def test_a_killed_run_ends_as_an_undisturbed_one(tmp_path, samples, data, model, whole, cut: int) -> None:
    shutil.copytree(whole, tmp_path / "cut")
    path = tmp_path / "cut" / RESPONSES
    path.write_bytes(path.read_bytes()[:cut])
    run(tmp_path / "cut", samples, data, model)
    resumed, expected = read_records(path, Response), read_records(whole / RESPONSES, Response)
    assert [(r.sample_id, r.variant, r.text) for r in resumed] == [(r.sample_id, r.variant, r.text) for r in expected]


def test_a_batch_is_on_disk_as_a_whole_before_its_first_answer_is_told(tmp_path, samples, data, model) -> None:
    """Else a run that ends in between would ask fewer variants together the next time."""
    told = generate(samples, data, model, VARIANTS, SHORT, tmp_path, batch_size=4)
    next(told)
    told.close()
    written = read_records(tmp_path / RESPONSES, Response)
    assert len(written) > 1 and len({one.sample_id for one in written}) * len(VARIANTS) == len(written)


def test_order_of_work_is_fixed_by_the_samples_alone(samples) -> None:
    plan = plan_batches(samples, 4)
    assert plan == plan_batches(samples[::-1], 4)
    assert plan[0][0].id == "three-images"
    assert plan[-1][-1].id == "one-image"
    assert sorted(sample.id for batch in plan for sample in batch) == sorted(sample.id for sample in samples)


def test_token_limit_is_reported(whole) -> None:
    responses = read_records(whole / RESPONSES, Response)
    assert all(response.tokens <= SHORT.max_new_tokens for response in responses)
    for response in responses:
        assert (response.finish_reason == "length") <= (response.tokens == SHORT.max_new_tokens)


def test_sampling_follows_the_seed(tmp_path, samples, data, model) -> None:
    def draw(name: str, seed: int) -> dict[tuple[str, str], str]:
        (tmp_path / name).mkdir()
        settings = GenerationSettings(max_new_tokens=8, temperature=1.0, seed=seed)
        return texts(list(generate(samples, data, model, {"base": None}, settings, tmp_path / name, batch_size=4)))

    assert draw("a", 1) == draw("b", 1)
    assert draw("c", 2) != draw("d", 1)


def test_unattached_adapter_is_refused(tmp_path, samples, data, model) -> None:
    with pytest.raises(SettingsError, match=r"'three' is not attached.*one, two"):
        next(generate(samples, data, model, {"three": "three"}, SHORT, tmp_path))


def test_missing_image_is_named(tmp_path, samples, data, model) -> None:
    gone = samples[0].model_copy(update={"images": ["images/gone.png"]})
    with pytest.raises(ImageError, match=r"gone\.png"):
        next(generate([gone], data, model, {"base": None}, SHORT, tmp_path))


class TestLoading:
    """What is missing, damaged or does not fit is named, with the way out."""

    def test_no_checkpoint(self, tmp_path) -> None:
        with pytest.raises(ModelError, match=r"expected a checkpoint folder.*mis build"):
            load_model(tmp_path / "nothing")

    def test_truncated_checkpoint(self, tmp_path, checkpoint) -> None:
        broken = shutil.copytree(checkpoint, tmp_path / "broken")
        weights = broken / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(ModelError, match=r"broken cannot be loaded.*mis build --force"):
            load_model(broken)

    def test_pickled_weights_are_not_read(self, tmp_path, checkpoint) -> None:
        pickled = shutil.copytree(checkpoint, tmp_path / "pickled")
        (pickled / "model.safetensors").unlink()
        torch.save({}, pickled / "pytorch_model.bin")
        with pytest.raises(ModelError, match="safetensors"):
            load_model(pickled)

    @pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
    def test_missing_adapter_file(self, tmp_path, checkpoint, adapters, name: str) -> None:
        folder = shutil.copytree(adapters["one"], tmp_path / "mirage")
        (folder / name).unlink()
        with pytest.raises(ModelError, match=rf"variant 'mirage': expected .*{name}.*mis train.*mini-mirage.yaml"):
            load_model(checkpoint, {"mirage": folder})

    def test_a_run_is_told_from_its_adapter(self, tmp_path, checkpoint, adapters) -> None:
        shutil.copytree(adapters["one"], tmp_path / "v1" / "adapter")
        with pytest.raises(ModelError, match=r"variant 'mine': .*found a run of `mis train`; name .*v1/adapter"):
            load_model(checkpoint, {"mine": tmp_path / "v1"})

    def test_what_is_no_adapter_is_told_from_one(self, tmp_path, checkpoint, adapters) -> None:
        run = tmp_path / "v1"
        shutil.copytree(checkpoint, run / "model")
        for named in (checkpoint, run):
            with pytest.raises(
                ModelError, match=r"variant 'mine': .*found a (whole checkpoint|run of .*v1/model).*--checkpoint"
            ):
                load_model(checkpoint, {"mine": named})
        with pytest.raises(ModelError, match="found an adapter; name it as one"):
            load_model(adapters["one"])
        with pytest.raises(ModelError, match=r"found a run of .*whole model; name .*v1/model as the checkpoint"):
            load_model(run)
        with pytest.raises(
            ModelError,
            match=r"expected .*nowhere/adapter_config.json, found no such file; name the folder of an adapter",
        ):
            load_model(checkpoint, {"mine": tmp_path / "nowhere"})
        with pytest.raises(ModelError, match=r"variant 'mine\.2': .*call it something else"):
            load_model(checkpoint, {"mine.2": adapters["one"]})

    def test_an_adapter_of_another_model_says_of_which(self, tmp_path, checkpoint, adapters) -> None:
        folder = shutil.copytree(adapters["one"], tmp_path / "mine")
        config = json.loads((folder / "adapter_config.json").read_text())
        other = {**config, "r": 2, "base_model_name_or_path": "somebody/other-7b"}
        (folder / "adapter_config.json").write_text(json.dumps(other))
        with pytest.raises(
            ModelError, match=r"one of somebody/other-7b\): .*size mismatch for .*; name the folder of an adapter"
        ):
            load_model(checkpoint, {"mine": folder})

    def test_an_adapter_on_other_weights_of_the_same_shapes_is_warned_of(self, tmp_path, checkpoint, adapters) -> None:
        from safetensors.torch import load_file, save_file

        folder = shutil.copytree(adapters["one"], tmp_path / "mine")
        write_base(folder, checkpoint)
        moved, tuned = (shutil.copytree(checkpoint, tmp_path / name) for name in ("moved", "tuned"))
        (moved / "README.md").write_text("the same weights")
        tensors = load_file(tuned / "model.safetensors")
        last = max(name for name in tensors if "q_proj" in name)
        tensors[last] += 0.01
        save_file(tensors, tuned / "model.safetensors", metadata={"format": "pt"})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load_model(moved, {"mine": folder})
            load_model(tuned, {"mine": adapters["one"]})  # of which nothing is known
        with pytest.warns(
            AdapterWarning, match=r"variant 'mine': .*/mine belongs to \(model\), found .*/tuned.*--checkpoint"
        ):
            load_model(tuned, {"mine": folder})
        (moved / "other.safetensors").write_bytes(b"cut")  # of no use, and no reason to lose what was trained
        write_base(folder, moved)
        assert json.loads((folder / "base.json").read_text()) == {"name": "moved", "weights": None}
        (folder / "base.json").write_text("{}")
        with pytest.raises(ModelError, match=r"base.json: expected the record of .*remove the file"):
            load_model(tuned, {"mine": folder})

    @pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
    def test_damaged_adapter_file(self, tmp_path, checkpoint, adapters, name: str) -> None:
        folder = shutil.copytree(adapters["one"], tmp_path / "mirage")
        (folder / name).write_bytes((folder / name).read_bytes()[:100])
        with pytest.raises(ModelError, match=r"variant 'mirage': .*cannot be loaded"):
            load_model(checkpoint, {"mirage": folder})

    def test_adapter_of_another_shape(self, tmp_path, checkpoint, adapters) -> None:
        folder = shutil.copytree(adapters["one"], tmp_path / "mirage")
        config = (folder / "adapter_config.json").read_text().replace('"r": 4', '"r": 2')
        (folder / "adapter_config.json").write_text(config)
        with pytest.raises(ModelError, match="variant 'mirage'"):
            load_model(checkpoint, {"mirage": folder})

    def test_adapter_tensors_without_a_place(self, tmp_path, checkpoint, adapters) -> None:
        from safetensors.torch import load_file, save_file

        folder = shutil.copytree(adapters["one"], tmp_path / "mirage")
        tensors = load_file(folder / "adapter_model.safetensors")
        renamed = {key.replace("layers.1", "layers.7"): tensor for key, tensor in tensors.items()}
        save_file(renamed, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match="tensors without a place"):
            load_model(checkpoint, {"mirage": folder})

    def test_no_such_device(self, checkpoint) -> None:
        with pytest.raises(SettingsError, match=r"device: expected .*'cuda:99'"):
            load_model(checkpoint, device="cuda:99")

    def test_several_adapters_keep_the_weights_of_the_file(self, model, adapters) -> None:
        from safetensors.torch import load_file

        for name in ("one", "two"):
            stored = load_file(adapters[name] / "adapter_model.safetensors")
            state = model.model.state_dict()
            for key, tensor in stored.items():
                assert torch.equal(state[key.replace(".weight", f".{name}.weight")], tensor)


@pytest.mark.gpu
def test_generates_on_cuda(tmp_path, samples, data, checkpoint, adapters) -> None:
    assert len(run(tmp_path / "a", samples, data, load_model(checkpoint, adapters, device="cuda"))) == 3 * len(samples)

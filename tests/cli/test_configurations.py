"""The files in configs/: each loads, agrees with the paper where the paper gives a value, and marks the rest as our
choice.
"""

from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType

from mis_lib.data.mixtures import configured
from mis_lib.errors import SettingsError
from mis_lib.recipes.study import StudySettings, arm_settings
from mis_lib.recipes.train import METHODS, read_train_settings
from mis_lib.settings import BASE, load_settings, read_settings_file
from mis_lib.train.settings import TrainSettings

FOLDER = Path(__file__).parents[2] / "configs"
RUNS = sorted(path for path in FOLDER.glob("*.yaml") if not path.name.startswith("study"))
CURRENT = [path for path in RUNS if yaml.safe_load(path.read_text(encoding="utf-8")).get(BASE) == "models/current.yaml"]
KINDS = {name: method.settings for name, method in METHODS.items()}
STATED = {"learning_rate", "epochs", "warmup_ratio"}  # what table 7 gives
OURS = {"scheduler", "batch_size", "weight_decay", "precision", "seed"}  # what the paper leaves open

# Table 7 of arXiv 2501.18533, appendix B.2: learning rate, epochs, share of general or benign rows in percent.
# Without MiniCPM-V 2.6, which has no class in transformers: remote code is not run.
TABLE_7 = {
    "internvl2_5-8b-mirage": (5e-6, 2, 11.1),
    "internvl2_5-8b-mirage_star": (5e-6, 2, 0.0),
    "internvl2_5-8b-vlguard_p": (5e-6, 3, 33.3),
    "internvl2_5-8b-vlguard_r": (5e-6, 3, 33.3),
    "internvl2_5-8b-textual": (2e-5, 2, 33.3),
    "qwen2-vl-7b-mirage": (2e-6, 3, 11.1),
    "qwen2-vl-7b-vlguard_r": (1e-5, 3, 33.3),
    "llava-onevision-7b-mirage": (5e-6, 3, 11.1),
    "llava-onevision-7b-vlguard_r": (5e-6, 3, 33.3),
    "llava-onevision-7b-textual": (2e-5, 3, 33.3),
}


def of(name: str) -> TrainSettings:
    return load_settings(TrainSettings, FOLDER / f"{name}.yaml")


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_run_loads_into_its_settings_and_its_recipe_exists(path: Path) -> None:
    kind = KINDS[read_settings_file(path).get("method", "sft")]
    settings = load_settings(kind, path)
    assert settings.name == path.stem, "a run folder is found by the name of its file"
    if settings.mixture is not None:
        recipe = configured(settings.mixture, [f"{key}={value}" for key, value in settings.mixture_options.items()])
        assert settings.arm is None or settings.arm in {arm.name for arm in recipe.arms}


def test_every_row_of_table_7_is_there_with_its_low_rank_version() -> None:
    written = {path.stem for path in RUNS if not path.stem.startswith("mini-")}
    assert written == set(TABLE_7) | {f"{name}-lora" for name in TABLE_7} | {path.stem for path in CURRENT}


@pytest.mark.parametrize("path", CURRENT, ids=lambda path: path.stem)
def test_runs_of_current_models_are_one_run_but_for_model_and_image_limits(path: Path) -> None:
    settings, paper = load_settings(TrainSettings, path), of("qwen2-vl-7b-mirage-lora")
    own = {"name", "model", "max_pixels", "max_dynamic_patch"}
    assert settings.model_dump(exclude=own) == paper.model_dump(exclude=own)


@pytest.mark.parametrize("path", CURRENT, ids=lambda path: path.stem)
def test_what_was_never_run_and_what_is_our_choice_is_in_the_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "Never run here: these weights, and a GPU." in text
    given = {line.split(":")[0]: line for line in text.splitlines() if line and line[0].isalpha()}
    assert all("our choice" in line for key, line in given.items() if key.startswith("max_"))


@pytest.mark.parametrize("name", TABLE_7)
def test_full_runs_are_as_table_7_says(name: str) -> None:
    settings, (rate, epochs, general) = of(name), TABLE_7[name]
    assert (settings.learning_rate, settings.epochs, settings.warmup_ratio) == (rate, epochs, 0.03)
    assert settings.tuning == "full"
    assert settings.freeze_vision and not settings.freeze_language
    assert settings.projector_is_frozen == name.endswith("textual")  # Textual SFT trains the language model alone
    recipe = configured(settings.mixture or "")
    shares = [part.share or 0.0 for part in recipe.arms[0].parts]
    assert 100 * sum(shares) == pytest.approx(general, abs=0.05)


@pytest.mark.parametrize("name", TABLE_7)
def test_low_rank_runs_differ_in_what_is_trained_only(name: str) -> None:
    full, low = of(name), of(f"{name}-lora")
    assert low.tuning == "lora" and low.freeze_vision and low.projector_is_frozen
    same = (
        "model",
        "data",
        "mixture",
        "general",
        "epochs",
        "batch_size",
        "warmup_ratio",
        "max_pixels",
        "max_dynamic_patch",
    )
    assert {key: getattr(low, key) for key in same} == {key: getattr(full, key) for key in same}


@pytest.mark.parametrize("name", TABLE_7)
def test_what_the_paper_leaves_open_is_marked_as_ours_and_nothing_else(name: str) -> None:
    own = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    files = FOLDER / f"{name}.yaml", FOLDER / own[BASE]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    given = {line.split(":")[0]: line for line in lines if line and line[0].isalpha()}
    assert given.keys() >= OURS
    assert all("our choice" in given[key] for key in OURS)
    assert not any("our choice" in given[key] for key in STATED)


@pytest.mark.parametrize("share", [1 / 7, 0.625])
@pytest.mark.parametrize("name", ["vlguard_p", "vlguard_r", "textual"])
def test_daggered_forms_add_general_rows_and_keep_two_to_one(name: str, share: float) -> None:
    harmful, benign, general = configured(name, [f"share={share}"]).arms[0].parts
    assert (harmful.share, general.source, general.share) == (None, "general", pytest.approx(share))
    assert benign.share == pytest.approx((1 - share) / 3)  # the harmful rows are the rest: twice as many


def test_the_study_trains_what_its_file_names() -> None:
    study = load_settings(StudySettings, FOLDER / "study-mini.yaml")
    assert [arm_settings(name, study).mixture for name in study.arms][:3] == ["mirage", "mirage_star", "refusal"]
    assert set(StudySettings().arms) == set(study.arms)


# ---------------------------------------------------------------- base


def test_a_file_adds_to_its_base_and_set_wins_over_both(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "shared.yaml").write_text("seed: 3\nepochs: 2\nlora: {rank: 4, alpha: 8}\n")
    path = tmp_path / "run.yaml"
    path.write_text("base: models/shared.yaml\nepochs: 1\nlora: {rank: 2}\n")
    settings = load_settings(TrainSettings, path, overrides=["lora.alpha=5"])
    assert (settings.seed, settings.epochs, settings.lora.rank, settings.lora.alpha) == (3, 1, 2, 5)


@pytest.mark.parametrize(
    ("base", "shared", "message"),
    [
        ("shared.yaml", "base: other.yaml\n", "shared.yaml: base: expected none, since it is the base of"),
        ("[shared.yaml]", "seed: 1\n", "run.yaml: base: expected the path of a settings file"),
        ("absent.yaml", "seed: 1\n", "absent.yaml does not exist"),
        ("shared.yaml", "- 1\n", "shared.yaml: expected YAML with one 'key: value' a line"),
        ("shared.yaml", "sed: 1\n", "unknown setting 'sed'"),
    ],
)
def test_a_wrong_base_is_refused(tmp_path: Path, base: str, shared: str, message: str) -> None:
    (tmp_path / "shared.yaml").write_text(shared)
    (tmp_path / "run.yaml").write_text(f"base: {base}\n")
    with pytest.raises(SettingsError, match=message):
        load_settings(TrainSettings, tmp_path / "run.yaml")


def test_the_method_may_be_named_in_the_base(tmp_path: Path) -> None:
    (tmp_path / "shared.yaml").write_text("method: dpo\n")
    (tmp_path / "run.yaml").write_text("base: shared.yaml\n")
    assert type(read_train_settings(tmp_path / "run.yaml")) is KINDS["dpo"]


# ---------------------------------------------------------------- accelerate

LAUNCHES = sorted((FOLDER / "accelerate").glob("*.yaml"))
FLAGS = {action.dest for action in launch_command_parser()._actions}


@pytest.mark.parametrize("path", LAUNCHES, ids=lambda path: path.stem)
def test_accelerate_reads_every_launch_file_and_knows_every_key(path: Path) -> None:
    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig)
    assert config.mixed_precision == "bf16" and not config.use_cpu
    # accelerate passes over keys of these groups that it does not know: a typing error would do nothing
    for group in (config.fsdp_config, config.deepspeed_config):
        assert set(group) <= FLAGS


def test_launch_files_are_what_their_names_say() -> None:
    read = {path.stem: load_config_from_file(str(path)) for path in LAUNCHES}
    assert {name: config.distributed_type for name, config in read.items()} == {
        "one_gpu": DistributedType.NO,
        "fsdp2": DistributedType.FSDP,
        "multi_node": DistributedType.FSDP,
        "deepspeed_zero2": DistributedType.DEEPSPEED,
        "deepspeed_zero3": DistributedType.DEEPSPEED,
    }
    assert all(read[name].fsdp_config["fsdp_version"] == 2 for name in ("fsdp2", "multi_node"))
    assert [read[f"deepspeed_zero{stage}"].deepspeed_config["zero_stage"] for stage in (2, 3)] == [2, 3]
    assert (read["multi_node"].num_machines, read["multi_node"].num_processes) == (2, 16)

"""Which settings the documentation shows, in its order: title, what they are for, class, and the class they extend."""

from collections.abc import Sequence

from mis_lib.data.mixtures import Options
from mis_lib.data.preflight import PreflightSettings
from mis_lib.generate.prompting import Prompting
from mis_lib.recipes.ablate import AblateSettings
from mis_lib.recipes.analyse import AnalyseSettings
from mis_lib.recipes.construct import ConstructSettings
from mis_lib.recipes.judge import JudgeSettings, JudgeSpec
from mis_lib.recipes.parity import ParitySettings
from mis_lib.recipes.settings import GenerateSettings, ReportSettings
from mis_lib.recipes.study import StudySettings
from mis_lib.recipes.train import METHODS
from mis_lib.settings import GenerationSettings, Settings
from mis_lib.train.settings import EvaluationSettings, LoraSettings, MultiplierSettings, TrainSettings

Shown = tuple[str, str, type[Settings], type[Settings] | None]
GROUPS: Sequence[Shown] = [
    ("mis train", "Every method has these; supervised fine-tuning (`method: sft`) has no others.", TrainSettings, None),
    *(
        (
            f"mis train, method {name}",
            "Its own settings, and those of `mis train` whose default differs.",
            method.settings,
            TrainSettings,
        )
        for name, method in METHODS.items()
        if method.settings is not TrainSettings
    ),
    ("lora", "Group of `mis train`.", LoraSettings, None),
    ("evaluation", "Group of `mis train`: safety and over-refusal while training.", EvaluationSettings, None),
    ("multiplier", "Group of the method `safe_grpo`.", MultiplierSettings, None),
    ("mixture_options", "Options of the mixture that `mixture` names.", Options, None),
    ("mis generate", "Which items are asked, of which models, and how.", GenerateSettings, None),
    ("generation", "Group of `mis generate`, `mis report` and the app.", GenerationSettings, None),
    ("Prompt and defence files", "A file that `--prompts NAME=FILE` names.", Prompting, None),
    ("mis report", "Beyond those of `mis generate`.", ReportSettings, GenerateSettings),
    ("mis judge", "Which judges rule, and how calls are made.", JudgeSettings, None),
    ("judges", "Each entry of `judges` of `mis judge`.", JudgeSpec, None),
    ("mis ablate", "Beyond those of `mis generate`.", AblateSettings, GenerateSettings),
    ("mis analyse", "Beyond those of `mis generate`.", AnalyseSettings, GenerateSettings),
    ("mis parity", "Which forms of a model are compared.", ParitySettings, None),
    ("mis study", "Which mixtures are trained and what they are asked.", StudySettings, None),
    ("mis construct", "With `--source stages` and `--relabel`.", ConstructSettings, None),
    ("mis check", "What is checked, and for which model.", PreflightSettings, None),
]

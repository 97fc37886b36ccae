"""The model card that lies beside trained weights."""

from mis_lib.results.train_runs import TrainRun
from mis_lib.train.settings import TrainSettings

CARD = "README.md"


def write_card(run: TrainRun, settings: TrainSettings, rows: int) -> None:
    """A model card beside the weights: what they are, of what they were made, and what they are not."""
    from mis_lib.train.run import ADAPTER, MODEL

    kind = ADAPTER if settings.tuning == "lora" else MODEL
    what = "LoRA adapter" if settings.tuning == "lora" else "fully fine-tuned checkpoint"
    data = settings.mixture or settings.data or "MIS-Mini"
    text = (
        f"# {settings.name}\n\n"
        f"{what.capitalize()} of `{settings.model}`, trained with `mis train` ({settings.method}) on {rows:,} rows of {data}, seed {settings.seed}.\n\n"
        "Settings: `config.yaml`, log: `train_log.jsonl`, versions and digests: `environment.json`, all in the run's folder. No safety is promised: "
        "measure attack success and over-refusal together (`mis report`).\n"
    )
    (run.folder / kind / CARD).write_text(text, encoding="utf-8")

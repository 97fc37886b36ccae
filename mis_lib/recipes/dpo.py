"""``method: dpo``: direct preference optimisation (arXiv 2305.18290) in an ordinary run folder, by TRL (``train.dpo``).

The log has the keys of ``mis train`` as far as TRL reports them, and two of DPO: ``reward_margin`` (how much further
the model prefers the better answer than it did at the start) and ``reward_accuracy`` (share of pairs in which it does).
A run that was killed starts again: TRL's checkpoints do not fix the order of rows, so a resumed run would not equal
an uninterrupted one.
"""

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from mis_lib.construct.preferences import Own, preferences
from mis_lib.data.preferences import PAIRS, Preference, read_preferences
from mis_lib.models.trained_on import item_digests, read_trained_on
from mis_lib.recipes.judge import check_judge
from mis_lib.recipes.progress import say
from mis_lib.recipes.raft import best, data_folder, draw
from mis_lib.recipes.samples import read_split
from mis_lib.recipes.train import base_of, open_shared, write_card
from mis_lib.results.runs import digest_of, folder_digest
from mis_lib.results.train_runs import LOG
from mis_lib.schema import Outcome, Sample
from mis_lib.settings import GenerationSettings
from mis_lib.train.distributed import main_first
from mis_lib.train.settings import DpoSettings
from mis_lib.train.trackers import Trackers


def train_dpo(settings: DpoSettings, on_line: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """Train on preference pairs; returns the folder of the finished run.

    Args:
        settings: resolved.
        on_line: called with every line of ``train_log.jsonl`` as it is written.

    Raises:
        MisError: something is refused or missing, or training failed; the message says what, where and how to fix it.
    """
    from transformers import set_seed

    from mis_lib.train.dpo import NAMES, dpo_trainer, pairs_may_share_a_pass, preference_rows
    from mis_lib.train.lora import groups, restore
    from mis_lib.train.model import limits_in, load
    from mis_lib.train.run import ADAPTER, CHECKPOINTS, make_encoder
    from mis_lib.train.trainer import save_result
    from mis_lib.train.trl import TrlLog

    checkpoint = base_of(settings)
    source = settings.pairs or data_folder(settings.data)
    digests = {
        "base": checkpoint if isinstance(checkpoint, str) else folder_digest(checkpoint),
        "data": digest_of(source),
    } | ({"start_from": folder_digest(settings.start_from)} if settings.start_from else {})
    with ExitStack() as held:
        with main_first(settings.device) as is_main:
            run = open_shared(settings, digests, held, is_main=is_main)
            if run.result is not None:
                return run.folder
        pairs, folder = pairs_of(settings)
        trained_on = read_trained_on(settings.start_from) | {*item_digests((pair.sample, folder) for pair in pairs)}
        set_seed(settings.seed)  # the adapter's first values are drawn
        loaded = load(settings, checkpoint)
        restore(loaded.model)  # TRL switches adapters, which the short way through LoRA layers does not know
        parts = {
            group.part.value: {"all": group.parameters, "trained": group.trained} for group in groups(loaded.model)
        }
        rows = preference_rows(pairs, folder, loaded.processor)
        encoder, tell = make_encoder(loaded, settings), say if is_main else lambda message: None
        share = pairs_may_share_a_pass(loaded, encoder, pairs, folder, settings, tell)
        trackers = held.enter_context(closing(Trackers(settings.report_to, run.folder)))
        log = TrlLog(run.folder / LOG, settings, [one for one in (on_line, trackers) if one is not None], NAMES)
        if is_main:
            say(f"DPO on {len(pairs):,} pairs")
        trainer = dpo_trainer(
            loaded.model,
            loaded.processor,
            rows,
            settings,
            run.folder / CHECKPOINTS,
            callbacks=[log],
            alone=not share,
        )
        trainer.train()
        save_result(
            trainer,
            run.folder / ADAPTER,
            checkpoint,
            limits=limits_in(settings),
            quantization=settings.quantization,
            trained_on=trained_on,
            again="DPO starts again",
        )
        if not is_main:
            return run.folder
        write_card(run, settings, len(pairs))
        run.finish(
            {
                "finished": True,
                "step": trainer.state.global_step,
                "steps": trainer.state.max_steps,
                "rows": len(pairs),
                "rejected": {
                    kind: sum(pair.provenance.get("rejected") == kind for pair in pairs)
                    for kind in sorted({str(pair.provenance.get("rejected")) for pair in pairs})
                },
                "parameters": parts,
            }
        )
        shutil.rmtree(run.folder / CHECKPOINTS, ignore_errors=True)
        return run.folder


def pairs_of(settings: DpoSettings) -> tuple[list[Preference], Path]:
    """Preference pairs of a run and the folder of their images: read, or constructed from the training data.

    Raises:
        DataError: the pairs or the data cannot be used.
    """
    if settings.pairs is not None:
        folder = settings.pairs if settings.pairs.is_dir() else settings.pairs.parent
        return _read_pairs(settings.pairs, settings.limit), folder
    folder = data_folder(settings.data)
    if (folder / PAIRS).exists():  # a data folder with pairs, such as a delta of annotations
        return _read_pairs(folder, settings.limit), folder
    samples = read_split(folder, settings.split, settings.limit)
    own = own_answers(samples, folder, settings) if _takes_own(settings, samples) else None
    return preferences(samples, own, seed=settings.seed), folder


def _takes_own(settings: DpoSettings, samples: Sequence[Sample]) -> bool:
    if settings.rejected is not None:
        return settings.rejected == "own"
    known = {sample.id for sample in samples}
    return not any(sample.harmful and sample.twin_id in known for sample in samples)


def own_answers(samples: Sequence[Sample], folder: Path, settings: DpoSettings) -> dict[str, Own]:
    """The model's own answers to harmful items, by sample id: the first unsafe one, and the best safe one.

    One answer is greedy, as the model would answer a user.

    Raises:
        DataError, SettingsError: the judge cannot be used.
    """
    harmful = [sample for sample in samples if sample.harmful]
    check_judge(settings.judge, harmful)
    temperature = settings.temperature if settings.answers > 1 else 0.0
    generation = GenerationSettings(max_new_tokens=160, temperature=temperature, seed=settings.seed)
    drawn = draw(harmful, folder, settings, generation, 24, f"{settings.name}-answers") if harmful else {}
    own = {
        sample.id: Own(
            next((one.text for one in drawn[sample.id] if one.outcome is Outcome.UNSAFE), None),
            best(sample, drawn[sample.id]).answer,
        )
        for sample in harmful
    }
    found = sum(one.unsafe is not None for one in own.values())
    say(f"Own unsafe answers: {found:,} of {len(harmful):,} harmful items")
    return own


def _read_pairs(path: Path, limit: int | None) -> list[Preference]:
    pairs = read_preferences(path)
    if limit is not None and limit < len(pairs):
        say(
            f"{len(pairs) - limit:,} of {len(pairs):,} pairs are left out: limit is {limit:,}; "
            "--set limit=null takes all"
        )
    return pairs[:limit]

"""``method: dpo``: direct preference optimisation (arXiv 2305.18290) in an ordinary run folder, by TRL (``train.dpo``).

The log has the keys of ``mis train`` as far as TRL reports them, and two of DPO: ``reward_margin`` (how much further
the model prefers the better answer than it did at the start) and ``reward_accuracy`` (share of pairs in which it does).
A run that was killed starts again: TRL's checkpoints do not fix the order of rows, so a resumed run would not equal
an uninterrupted one.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mis_lib.construct.preferences import Own, preferences
from mis_lib.data.preferences import AGREED, PAIRS, Preference, Preferred, Rated, by_rating, read_preferences
from mis_lib.data.sources import find_source
from mis_lib.errors import DataError
from mis_lib.recipes.judge import check_judge
from mis_lib.recipes.progress import say
from mis_lib.recipes.raft import best, data_folder, draw
from mis_lib.recipes.samples import read_split
from mis_lib.recipes.trl import Prepared, Tell, train_by_trl
from mis_lib.results.runs import digest_of
from mis_lib.results.train_runs import TrainRun
from mis_lib.schema import Outcome, Sample
from mis_lib.settings import GenerationSettings
from mis_lib.train.settings import DpoSettings, PairSettings

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from mis_lib.train.model import Loaded


def train_dpo(settings: DpoSettings, on_line: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """Train on preference pairs; returns the folder of the finished run. Arguments and errors: ``train_by_trl``."""

    def prepare(run: TrainRun) -> Prepared:
        from mis_lib.train.dpo import NAMES, dpo_trainer, pairs_may_share_a_pass, preference_rows
        from mis_lib.train.run import make_encoder

        pairs, folder = pairs_of(settings)

        def trainer(loaded: "Loaded", checkpoints: Path, log: "TrainerCallback", tell: Tell) -> Any:
            rows, encoder = preference_rows(pairs, folder, loaded.processor), make_encoder(loaded, settings)
            share = pairs_may_share_a_pass(loaded, encoder, pairs, folder, settings, tell)
            parts = loaded.model, loaded.processor, rows, settings, checkpoints
            return dpo_trainer(*parts, callbacks=[log], alone=not share)

        rejected = Counter(str(pair.provenance.get("rejected")) for pair in pairs)
        return Prepared(
            said=f"DPO on {len(pairs):,} pairs",
            rows=len(pairs),
            learned=[(pair.sample, folder) for pair in pairs],
            trainer=trainer,
            names=NAMES,
            result={"rejected": dict(sorted(rejected.items()))},
        )

    return train_by_trl(settings, digest_of(settings.pairs or data_folder(settings.data)), prepare, on_line)


def pairs_of(settings: PairSettings) -> tuple[list[Preference], Path]:
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
    if (rated := _rated(folder, settings, samples)) is not None:
        return _published(rated, folder, settings), folder
    own = own_answers(samples, folder, settings) if _takes_own(settings, samples) else None
    return preferences(samples, own, seed=settings.seed), folder


def _rated(folder: Path, settings: PairSettings, samples: Sequence[Sample]) -> list[tuple[Sample, Rated]] | None:
    """The samples with two rated responses; None if the set publishes none, or other pairs are asked for."""
    loader = find_source(folder, split=settings.split).loader
    read = None if loader is None else loader.rated
    if read is None and settings.prefer is not None:
        raise DataError(
            f"prefer={settings.prefer}: expected a set that publishes two rated responses (BeaverTails-V, SPA-VL), "
            f"found {folder}; leave prefer out, or name such a folder as data"
        )
    if settings.rejected is not None and settings.prefer is None:
        return None
    return None if read is None else [(sample, one) for sample in samples if (one := read(sample)) is not None]


def _published(rated: Sequence[tuple[Sample, Rated]], folder: Path, settings: PairSettings) -> list[Preference]:
    known: list[Preferred] = sorted({rating for _, one in rated for rating in one.preferred})
    choices = [*known, AGREED] if len(known) > 1 else known
    prefer: Preferred | None = settings.prefer or (known[0] if len(known) == 1 else None)
    pairs = by_rating(rated, prefer) if prefer is not None and prefer in choices else []
    if not pairs:
        raise DataError(
            f"{folder}, split {settings.split}: expected prefer to be one of {', '.join(choices) or 'none'}, and rows "
            f"that it decides, found {prefer or 'none'} for {len(rated):,} rated rows; name one (--set prefer=RATING), "
            "or another split"
        )
    unsafe = sum(pair.provenance.get("chosen_safe") is False for pair in pairs)
    say(
        f"{len(pairs):,} pairs of {len(rated):,} rated rows (prefer={prefer}), {unsafe:,} of whose preferred responses "
        "are marked unsafe; the other rows are not decided by it, or hold the same response twice"
    )
    return pairs


def _takes_own(settings: PairSettings, samples: Sequence[Sample]) -> bool:
    if settings.rejected is not None:
        return settings.rejected == "own"
    known = {sample.id for sample in samples}
    return not any(sample.harmful and sample.twin_id in known for sample in samples)


def own_answers(samples: Sequence[Sample], folder: Path, settings: PairSettings) -> dict[str, Own]:
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

"""``mis check DATA --mixture NAME``: what a mixture is made of and what it shares with the test splits; and writing it."""

from collections.abc import Sequence
from pathlib import Path

from mis_lib import console
from mis_lib.commands.check_tables import mixture_tables
from mis_lib.data.folders import TEST_SPLITS, split_name
from mis_lib.data.mixed import composition, overlaps, write
from mis_lib.data.mixing import compose
from mis_lib.data.mixtures import BESIDE, GENERAL, SAFETY, Recipe, SampleSet
from mis_lib.data.recipes import configured
from mis_lib.data.sources import Source, find_source, load
from mis_lib.errors import DataError


def mixture(
    path: Path,
    name: str,
    options: Sequence[str],
    *,
    general: Path | None = None,
    against: Path | None = None,
    output: Path | None = None,
    as_json: bool = False,
) -> bool:
    """Compose a mixture, print what it is made of and what it shares with the test splits; returns whether it leaks nothing.

    Args:
        path: the safety data; of a folder with several splits, ``train``.
        name: the recipe.
        options: ``key=value`` for the recipe.
        general: the general data [default: ``general`` in the same folder].
        against: test data [default: the test splits in the same folder].
        output: folder to write the mixture to.
        as_json: print JSON for programs.

    Raises:
        MisError: the recipe is unknown or the data does not suffice for it.
    """
    recipe = configured(name, options)
    arms = compose(recipe, _sources(recipe, path, general))
    made = composition(arms)
    tests = _tests(path if against is None else against, every=against is not None)
    shared = list(overlaps(arms, tests, console.say))
    if output is not None:
        write(recipe, arms, output)
        console.say(f"mixture: {output}")
    if as_json:
        parts = {"composition": made, "overlaps": shared}
        records = {key: [value.model_dump(mode="json") for value in values] for key, values in parts.items()}
        console.print_json({"recipe": recipe.model_dump(mode="json"), **records})
    else:
        console.out.print(mixture_tables(recipe, made, shared))
    return not any(overlap.leaks for overlap in shared)


def _sources(recipe: Recipe, path: Path, general: Path | None) -> dict[str, SampleSet]:
    """The sets that a recipe needs."""
    needed = {part.source for arm in recipe.arms for part in arm.parts}
    beside = path.parent if path.is_file() else path
    places: dict[str, tuple[Path, str | None]] = {role: (beside, split) for role, split in BESIDE.items()}
    places[SAFETY] = path, "train"
    if general is not None:
        places[GENERAL] = general, None
    sources = {}
    for role in sorted(needed):
        place, split = places[role]
        console.say(f"Reading {role} data")
        sources[role] = _read(find_source(place, split=split if place.is_dir() else None))
    return sources


def _tests(path: Path, *, every: bool) -> dict[str, SampleSet]:
    """The test splits at a path, or beside it; ``every``: it was named as test data, so whatever is there is meant."""
    if every and path.is_file():
        return {path.name: _read(find_source(path))}
    folder = path if path.is_dir() else path.parent
    try:
        whole = find_source(folder)
    except DataError:
        if every:
            raise
        return {}  # training data that stands alone
    there = whole.splits if whole.loader is not None else tuple(dict.fromkeys(map(split_name, whole.files)))
    splits = [split for split in there if split in TEST_SPLITS or (every and split != "train")]
    return {split: _read(find_source(folder, split=split)) for split in splits}


def _read(source: Source) -> SampleSet:
    return SampleSet(load(source), source.folder)

"""The folder of the checkpoint that a verb was given: a path, a hub id, or without one the embedded model."""

from pathlib import Path

from mis_lib.recipes.progress import bar, say


def local_checkpoint(named: Path | str | None, *, fetch: bool = True) -> Path:
    """The folder of a checkpoint, made or fetched if it is missing.

    Args:
        named: a folder, a hub id, or ``None`` for the embedded model.
        fetch: a hub id that is not in the local cache is fetched, with a bar; to be set only where a person named it.

    Raises:
        ModelError: the checkpoint is not on this machine and cannot be fetched; says what to do.
    """
    if named is None:
        from mis_lib.models.mini.assemble import ensure_mini

        return ensure_mini(say)
    from mis_lib.models.hub import checkpoint_folder, is_hub_id

    if not (fetch and is_hub_id(named)):
        return checkpoint_folder(named)
    with bar(f"fetching {named}, MB:") as advance:
        return checkpoint_folder(named, lambda done, total: advance("", done // 10**6, total // 10**6))

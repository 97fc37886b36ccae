"""What ``mis report`` is asked for."""

from pathlib import Path

from mis_lib.commands.answerers import all_known, known_variants
from mis_lib.commands.generate_settings import GenerateSettings
from mis_lib.construct.drawings import STYLES
from mis_lib.errors import SettingsError
from mis_lib.results.metrics import GROUPINGS, SEEN
from mis_lib.results.slices import is_file, read_slices
from mis_lib.settings import GenerationSettings
from mis_lib.store.notes import fitting


class ReportSettings(GenerateSettings):
    """What is evaluated and where it is kept; every field has a default that needs nothing but this package."""

    by: str = "split"
    """A grouping, or a file of named slices (``analysis.slices``)."""
    generation: GenerationSettings = GenerationSettings()
    name: str = "report"
    naming: bool = False
    styles: tuple[str, ...] = STYLES
    questions: Path | None = None
    """Text file, a question a line: every pair is asked one of these instead of its own, but for those whose harm lies in theirs."""
    exchanged: bool = False
    """Whether pairs are asked with their images exchanged, and "first" and "second" in their questions too."""
    existing: tuple[Path, ...] = ()
    """Run folders to be read as they are; nothing is generated."""
    judges: tuple[str, ...] = ()
    """Whose verdicts of existing runs [default: of all judges that have read them]."""
    majority: bool = False
    """Whether existing runs are draws of the same thing, of which the majority decides item by item (SIUO asks for three)."""
    effectiveness: Path | None = None
    """SIUO: JSON Lines file of its second judgement, a line for each response (sample_id, variant, said)."""
    paired: tuple[str, ...] = ()
    """Two sides, VARIANT or RUN:VARIANT, to be compared item by item."""
    published: bool = False
    """Whether to show the published reference too."""
    regression: Path | None = None
    """Regression set (``mis annotations delta`` writes it) [default: regression.jsonl beside the data of the run]."""
    note: str | None = None
    """What is noted about the run, in ``note.md`` of its folder; an empty one takes it away."""
    out: Path | None = None
    """Folder into which every sheet is written in every form."""


def check(settings: ReportSettings) -> None:
    """Refuse what cannot be done before anything is built or loaded.

    Raises:
        SettingsError: settings are unknown or do not go together; names the flags.
        DataError: the slices cannot be read.
    """
    if settings.paired and len(settings.paired) != 2:
        raise SettingsError(f"--paired: expected two sides, BEFORE AFTER, found {len(settings.paired)}")
    if settings.questions is not None and (settings.existing or settings.naming):
        raise SettingsError(
            "--questions: expected pairs to be asked anew; leave out --existing and --naming, or the questions"
        )
    if settings.exchanged and (settings.existing or settings.naming):
        raise SettingsError("--exchanged: expected pairs to be asked anew; leave out --existing and --naming, or it")
    fitting(settings.note or "")
    if settings.note is not None and len(settings.existing) > 1:
        raise SettingsError(
            f"--note: expected one run that it is about, found {len(settings.existing)}; name that one alone (--existing RUN --note TEXT)"
        )
    if not settings.existing:
        all_known("--variants", settings.variants, known_variants(settings))
    all_known("--styles", settings.styles, STYLES)
    if is_file(settings.by):
        read_slices(settings.by)
    else:
        all_known("--by", [settings.by], [*GROUPINGS, SEEN, "a file of slices (.csv, .json ...)"])
    if settings.by == SEEN and settings.paired:
        raise SettingsError(
            f"--by {SEEN}: expected no --paired, since each side names other things; compare by {', '.join(GROUPINGS)}, or leave out --paired"
        )

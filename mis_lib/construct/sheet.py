"""The datasheet that ``mis construct`` puts beside MIS-Mini: what its numbers cannot say about it."""

from collections.abc import Mapping, Sequence

from mis_lib.construct.drawings import CREDITS, UNSEEN_STYLE, style_credits
from mis_lib.construct.general import ITEMS, SPLIT
from mis_lib.data.datasheet import About, datasheet
from mis_lib.schema import Sample

NAME = "DATASHEET.md"
LIMITS = (
    "Everything is drawn: emoji on plain paper. A model that is safe here need not be safe on photographs.",
    "Every item has two images; general items have one to four. Longer sequences are not tested.",
    "Everyday pairs (everyday, everyday_train) are harmless things that belong to no category, asked about openly; nothing that could do harm beside another is among them, "
    "so they tell how often a model refuses without need, and not where its limit lies.",
    "English only; questions are templates, of a block or, for half of the training items, of none, so the questions say little and the pictures carry the difference.",
    "Nobody outside this project has reviewed which pairs are harmful and how they are answered; no agreement between raters was measured.",
    "Content stays non-graphic and explains no method; Erotic is limited to consent and covert recording between adults.",
    f"The split real is a shift of drawing style ({UNSEEN_STYLE}), not real photographs as in MIS; pairs of easy and hard with a thing that this style "
    "does not draw, or draws as another thing, are not in it (summary.json lists them).",
    "Training labels share a few declining sentences; a model may learn their wording.",
)


def sheet(
    files: Mapping[str, Sequence[Sample]],
    *,
    seed: int,
    table: str,
    pictures: int,
    icon_turns: int = 0,
    both_orders: bool = False,
) -> str:
    """The datasheet of one build of MIS-Mini.

    Args:
        files: samples by data file.
        seed: that it was drawn with.
        table: SHA-256 of the element table.
        pictures: how many were drawn.
        icon_turns: how often every training pair is asked in icons as well.
        both_orders: whether every training pair is asked with its images exchanged as well.
    """
    drawings = {f"drawings in style {style}": credit for style, credit in style_credits(icons=icon_turns > 0).items()}
    others = len(files.get(SPLIT, ()))
    options = f" --icons {icon_turns}" if icon_turns else ""
    options += " --both_orders" if both_orders else ""
    options += f" --general_items {others}" if others not in (0, ITEMS) else ""
    about = About(
        title="MIS-Mini",
        purpose=(
            "A miniature of MIS (arXiv 2501.18533) for trying multi-image safety from end to end on a laptop: questions about two pictures that "
            "are harmless alone and harmful together, each with a benign twin that differs in one picture; and everyday pairs, which are about nothing that could do harm."
        ),
        made=(
            f"`mis construct --out FOLDER --seed {seed}{options}` composes items from the element table (SHA-256 {table}) and draws {pictures:,} pictures; "
            "the same seed gives the same bytes. Questions and answers are composed of the table's texts, an answer's perception of both names and their kinds, its reasoning of what these come to; no model is asked on the way."
        ),
        licences={"texts and element table": "Apache-2.0, as this project", **drawings},
        limits=LIMITS,
    )
    return datasheet(files, about)


def stages_sheet(files: Mapping[str, Sequence[Sample]], *, teachers: Mapping[str, str], command: str) -> str:
    """The datasheet of a set that teachers made stage by stage.

    Args:
        files: samples by data file.
        teachers: who wrote, looked, judged and drew.
        command: makes it again.
    """
    drawn = teachers.get("images") == "drawn"
    credit = {f"drawings in style {style}": words for style, words in CREDITS.items()} if drawn else {}
    about = About(
        title="A set made in stages",
        purpose="Questions about two pictures that are harmful together only, constructed as in MIS (arXiv 2501.18533, section 3.2), each with a benign twin.",
        made=f"`{command}` with these teachers: {', '.join(f'{role} {name}' for role, name in teachers.items())}.",
        licences={"texts": "as the teachers' terms say; the built-in teacher's: Apache-2.0", **credit},
        limits=(
            *(
                LIMITS[:1]
                if drawn
                else ("Pictures come from a generator: a model that is safe here need not be safe on photographs.",)
            ),
            "What a teacher overlooks, filters and classifies wrongly stays in unless a person looks: review.csv is there for that.",
        ),
    )
    return datasheet(files, about)

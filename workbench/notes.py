"""Notes on runs in the Results tab: a run is chosen, its note is shown, and what is written in its place is kept in the run's folder."""

from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr

from mis_lib.errors import MisError, SettingsError
from mis_lib.store.notes import LONGEST, NOTE, read_note, write_note
from workbench import html as render
from workbench.compare_parts import html
from workbench.handlers_results import ResultsHandlers, Update
from workbench.links import resolve_run
from workbench.navigation import QUIET
from workbench.results import views

if TYPE_CHECKING:
    from workbench.results.tab import Parts


class NoteParts(NamedTuple):
    """What is chosen and written."""

    noted: gr.Dropdown
    text: gr.Textbox
    keep: gr.Button
    kept: gr.HTML


def build() -> NoteParts:
    """Lay out the closed part under the leaderboard."""
    with gr.Accordion("Notes on runs", open=False):
        with gr.Row(elem_classes=["mis-filters"]):
            noted = gr.Dropdown([], value=None, label="Run", scale=2, min_width=160, elem_id="mis-results-noted")
            text = gr.Textbox(
                label="Note (kept as note.md with the run; an empty one takes it away)",
                lines=2,
                max_length=LONGEST,
                interactive=False,  # until the note of a run stands in it: that would take the place of what is being written
                scale=6,
                min_width=260,
                elem_id="mis-results-note",
            )
            keep = gr.Button("Keep note", size="sm", scale=0, min_width=110, elem_id="mis-results-keep")
        kept = html("", "mis-results-kept")
    return NoteParts(noted, text, keep, kept)


def bind(made: NoteParts, handlers: ResultsHandlers, parts: "Parts") -> None:
    """Show the note of the run that is chosen, and keep what is written."""

    def shown(name: str | None) -> tuple[dict[str, Any], str]:
        note = read_note(resolve_run(handlers.evaluations.root, name).folder) if name else ""
        return gr.update(value=note, interactive=bool(name)), ""

    gr.on(made.noted.input, shown, inputs=made.noted, outputs=[made.text, made.kept], **QUIET)
    inputs: list[Any] = [made.noted, made.text, *parts.choosers]
    gr.on(
        made.keep.click,
        lambda name, text, *values: keep(handlers, name, text, *values),
        inputs=inputs,
        outputs=parts.everything,
        **QUIET,
    )


def keep(handlers: ResultsHandlers, name: str | None, text: str | None, *values: Any) -> Update:
    """Keep a note on a run and draw what is chosen, with the note in its place; say where it is, since the table may not show that run."""
    parts, note = handlers.parts, (text or "").strip()
    try:
        if not name:
            raise SettingsError("choose the run that the note is about")
        folder = resolve_run(handlers.evaluations.root, name).folder
        write_note(folder, note)
    except (MisError, OSError) as error:
        return {parts.errors: render.error_bar([str(error)]), parts.kept: ""}
    update = handlers.chosen(*values)
    if not note:
        return update | {parts.kept: render.status_line(f"{name} has no note now.")}
    stands = name in update.get(parts.drawn, ()) and views.note_under(note) in update.get(parts.board_table, "")
    place = (
        "It stands under the run's name in the table."
        if stands
        else f"The table above has no line of {name} as it is chosen now."
    )
    return update | {parts.kept: render.status_line(f"Kept in {folder / NOTE}. {place}")}

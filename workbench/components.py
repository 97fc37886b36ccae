"""Gradio pieces that several tabs use: HTML blocks, figures with download buttons, options of quiet bindings."""

import json
from typing import Any

import gradio as gr
import plotly.graph_objects as go
from gradio.components.plot import PlotData
from gradio.data_classes import GradioModel

from mis_lib.results.figures.style import CONFIG
from workbench.html import macros

QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
SAVE_FILE = "(file) => window.mis.saveFile(file)"
REFRESH = "watch('value', () => window.mis.refresh(element));"


def html_block(value: str, elem_id: str, **extra: Any) -> gr.HTML:
    """An HTML piece with our own style only."""
    return gr.HTML(value, elem_id=elem_id, apply_default_css=False, **extra)


def error_block(elem_id: str, **extra: Any) -> gr.HTML:
    """Where a tab shows its error bar; takes no room while there is none."""
    return html_block("", elem_id, elem_classes=["mis-errors"], **extra)


def actions_js(*names: str) -> str:
    """Script of an HTML piece: pressing a button with ``data-action`` triggers the event of that name with its data."""
    return f"""
element.addEventListener('click', (event) => {{
  const button = event.target.closest('[data-action]');
  const action = button?.dataset.action;
  if ({json.dumps(names)}.includes(action)) trigger(action, {{...button.dataset}});
}});
"""


def who(request: gr.Request, author: str | None) -> str:
    """The login's name; without logins the name that the person gave."""
    return request.username or (author or "").strip()


def file_text(name: str, kind: str, text: str) -> str:
    """A file for ``SAVE_FILE``, as text that travels to the browser."""
    return json.dumps({"name": name, "type": kind, "text": text})


def figure_part(name: str, title: str) -> gr.Plot:
    """A titled figure, empty at first, with its two download buttons; its element is ``mis-figure-NAME``."""
    with gr.Column(elem_classes=["mis-figure"], min_width=320):
        gr.HTML(macros("page.html").figure_head(name, title), apply_default_css=False)
        return gr.Plot(elem_id=f"mis-figure-{name}", show_label=False, container=False)


def plot_value(figure: go.Figure) -> GradioModel:
    """The figure as ``gr.Plot`` takes it, with our configuration: no logo, no cloud button."""
    return PlotData(type="plotly", plot=json.dumps({**json.loads(figure.to_json() or "{}"), "config": CONFIG}))

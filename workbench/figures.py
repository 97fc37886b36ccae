"""Figures on the page: a Plotly figure with our configuration, and buttons that save it as PNG or SVG without any other machine."""

import json

import gradio as gr
import plotly.graph_objects as go
from gradio.components.plot import PlotData
from gradio.data_classes import GradioModel

from mis_lib.results.figures.style import CONFIG


def shown(figure: go.Figure) -> GradioModel:
    """The figure as the page's component takes it; the configuration travels with it (no logo, no cloud button)."""
    return PlotData(type="plotly", plot=json.dumps({**json.loads(figure.to_json() or "{}"), "config": CONFIG}))


def figure_part(name: str, title: str) -> gr.Plot:
    """A titled figure, empty at first, with its two download buttons; its element is ``mis-figure-NAME``."""
    with gr.Column(elem_classes=["mis-figure"], min_width=320):
        gr.HTML(_head(name, title), apply_default_css=False)
        return gr.Plot(elem_id=f"mis-figure-{name}", show_label=False, container=False)


def _head(name: str, title: str) -> str:
    buttons = "".join(
        f'<button type="button" class="mis-link" data-figure="{name}" data-format="{kind}">{kind.upper()}</button>'
        for kind in ("png", "svg")
    )
    return f'<div class="mis-figure-head"><h3>{title}</h3><span>{buttons}</span></div>'

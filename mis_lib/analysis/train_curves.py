"""The log of a training run as frames and as a figure that grows while the run goes on.

curves = Curves("Loss")
train(settings, on_line=curves)         # in a notebook the figure is drawn once and then updated
"""

import time
from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
import plotly.io as pio
from IPython.display import DisplayHandle

from mis_lib.analysis.train_log import evaluations, losses
from mis_lib.notebook.display import RENDERER
from mis_lib.results.figures.rates import training_curves

EVERY = 2.0  # seconds between updates of the figure


class Curves:
    """Listens to a run and keeps a figure of it up to date."""

    def __init__(self, title: str) -> None:
        self.lines: list[Mapping[str, Any]] = []
        self.title, self._handle, self._drawn = title, DisplayHandle(), 0.0

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Take one line of the log."""
        self.lines.append(line)
        if time.monotonic() - self._drawn >= EVERY:
            self.draw()

    def draw(self) -> None:
        """Draw the figure, or draw it anew in its place."""
        # as data: a figure object shows itself, and would be added below instead of drawn in its place
        bundle = pio.renderers[RENDERER].to_mimebundle(self.figure.to_dict())
        (self._handle.update if self._drawn else self._handle.display)(bundle, raw=True)
        self._drawn = time.monotonic()

    @property
    def figure(self) -> go.Figure:
        """The curves so far."""
        figure = training_curves(losses(self.lines), evaluations(self.lines))
        return figure.update_layout(title=self.title, margin_t=76)

"""Executed notebooks as pages that need no other file and no network.

Figures are drawn by a script in the page, pictures are hidden until clicked. nbconvert's own HTML loads scripts from
other machines and leaves out figures that JupyterLab draws from data; this exporter does neither. It is known to
nbconvert as ``mis_html`` (``jupyter nbconvert --to mis_html FILE``, and JupyterLab's export menu).
"""

import html
import json
import re
from typing import Any, ClassVar

from jinja2 import DictLoader
from nbconvert.exporters import HTMLExporter
from nbconvert.preprocessors import Preprocessor
from nbformat import NotebookNode
from plotly.offline import get_plotlyjs

from mis_lib.results.figures.style import INK_RULE

FIGURE = "application/vnd.plotly.v1+json"
PLOT = "mis-figure"
_TEMPLATE = (
    """{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock html_head_js -%}
{%- block html_head_js_mathjax -%}{%- endblock html_head_js_mathjax -%}
{%- block html_head_js_mermaidjs -%}{%- endblock html_head_js_mermaidjs -%}
{%- block html_head_css -%}
<style>body.jp-Notebook { max-width: 1100px; margin: auto } .jp-InputPrompt, .jp-OutputPrompt { display: none }
.jp-RenderedHTMLCommon table { font-size: 13px } .jp-OutputArea-output { overflow-x: auto }
.highlight pre { white-space: pre-wrap }
/* Jupyter's own comments, operators and numbers have a contrast below 4.5 on the ground of a cell */
[data-jp-theme-light="true"] .highlight {
  --jp-mirror-editor-comment-color: #336b6b; --jp-mirror-editor-operator-color: #8a1ae0;
  --jp-mirror-editor-number-color: #067006 }
[data-jp-theme-light="false"] .highlight {
  --jp-mirror-editor-comment-color: #6fb0b0; --jp-mirror-editor-operator-color: #c98aff }
"""
    + INK_RULE
    + """</style>
{%- endblock html_head_css -%}
"""
)
_SERVED_HERE = re.compile(
    r"<div>\s*<iframe[^>]*src=\"http://(?:127\.0\.0\.1|localhost)[^>]*></iframe>\s*</div>|<iframe[^>]*src=\"http://(?:127\.0\.0\.1|localhost)[^>]*></iframe>"
)
_APP_NOTE = (
    "<p><i>The app ran here while the notebook was executed; "
    "open the notebook in JupyterLab to use it in this place.</i></p>"
)


class OfflinePages(Preprocessor):
    """Turns outputs that need JupyterLab, a server or another machine into ones that need the page only."""

    def preprocess(self, nb: NotebookNode, resources: dict[str, Any]) -> tuple[NotebookNode, dict[str, Any]]:
        """Rewrite the outputs of a copy of the notebook."""
        nb = NotebookNode(nb)
        nb["cells"] = [self._cell(cell) for cell in nb.cells]
        outputs = [output for cell in nb.cells for output in cell.get("outputs", [])]
        if any(PLOT in str(output.get("data", {}).get("text/html", "")) for output in outputs):
            library = {"text/html": f"<script>{get_plotlyjs()}</script>"}  # once, before the first cell
            script = NotebookNode(output_type="display_data", metadata={}, data=library)
            first = next(cell for cell in nb.cells if cell.cell_type == "code")
            first.outputs.insert(0, script)
        return nb, resources

    def _cell(self, cell: NotebookNode) -> NotebookNode:
        if cell.cell_type != "code":
            return cell
        name = cell.get("id", "cell")
        outputs = [self._output(output, f"{name}-{place}") for place, output in enumerate(cell.outputs)]
        return NotebookNode(cell | {"outputs": outputs})

    def _output(self, output: NotebookNode, name: str) -> NotebookNode:
        data = output.get("data")
        if not data:
            return output
        if FIGURE in data:
            return NotebookNode(output | {"data": {"text/html": plot(data[FIGURE], name)}})
        if "image/png" in data:
            return NotebookNode(output | {"data": {"text/html": hidden_picture(data["image/png"])}})
        if "text/html" in data:
            page = _SERVED_HERE.sub(_APP_NOTE, data["text/html"])
            return NotebookNode(output | {"data": {**data, "text/html": page}})
        return output


class OfflineHTMLExporter(HTMLExporter):
    """HTML of an executed notebook that can be passed on as one file."""

    export_from_notebook: ClassVar[str] = "HTML, whole, pictures hidden"  # its name in JupyterLab's menu

    def __init__(self, **options: Any) -> None:
        loader = DictLoader({"mis/page.html.j2": _TEMPLATE})
        super().__init__(**{"extra_loaders": [loader], "template_file": "mis/page.html.j2", **options})
        self.register_preprocessor(OfflinePages, enabled=True)


def plot(figure: dict[str, Any], name: str) -> str:
    """A Plotly figure as an element and the call that draws it; the page holds the library."""
    parts = ", ".join(json.dumps(figure.get(key, {})).replace("</", "<\\/") for key in ("data", "layout", "config"))
    height = figure.get("layout", {}).get("height", 450)
    said = html.escape(figure.get("layout", {}).get("title", {}).get("text", "figure"), quote=True)
    box = (
        f'<div id="{name}" class="{PLOT}" style="width: 100%; height: {height}px" role="img" aria-label="{said}"></div>'
    )
    return f"{box}<script>Plotly.newPlot({json.dumps(name)}, {parts})</script>"


def hidden_picture(png: str) -> str:
    """A picture that a cell showed without the gallery: hidden until a click, too."""
    image = f'<img alt="picture shown by a cell" src="data:image/png;base64,{png.strip()}">'
    return f'<details class="mis-hidden"><summary>picture, click to show</summary>{image}</details>'

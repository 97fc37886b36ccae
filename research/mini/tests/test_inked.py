"""Line art made of coloured drawings: outlines in ink, dark shapes filled, light ones left, nothing else."""

import json
import lzma
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from mis_lib.construct.drawings import svg_of
from research.mini.assets import ALL_STYLES, DRAWING, INKED, STYLES, load_drawings
from research.mini.inked import FAINT, Pen, inked

pytestmark = pytest.mark.research

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 40">{}</svg>'
PEN = Pen(0.05, 0.3)


def shapes(svg: str, pen: Pen = PEN) -> list[ElementTree.Element]:
    """Shapes of the inked drawing in order."""
    root = ElementTree.fromstring(inked(SVG.format(svg), pen))
    return [element for element in root.iter() if element.get("stroke")]


@pytest.mark.parametrize(
    ("looks", "ground"),
    [
        ('fill="#222"', "#000"),
        ('fill="#eee"', "#fff"),
        ('fill="navy"', "#000"),
        ('style="fill: #101010"', "#000"),
        ('fill="#101010" style="fill:#fefefe"', "#fff"),  # a style rules over an attribute
        ("", "#000"),  # black is SVG's own default
        ('fill="none" stroke="#f00"', "none"),
        ('fill="currentColor"', "#fff"),
    ],
)
def test_dark_shapes_are_filled_with_ink_and_light_ones_with_paper(looks: str, ground: str) -> None:
    (shape,) = shapes(f'<circle cx="20" cy="20" r="9" {looks}/>')
    assert (shape.get("fill"), shape.get("stroke"), shape.get("stroke-width")) == (ground, "#000", "2")
    assert shape.get("style") is None


def test_a_group_hands_its_fill_down_and_a_gradient_is_as_bright_as_its_stops() -> None:
    stops = '<stop stop-color="#000"/><stop style="stop-color:{}"/>'
    dark, light = (
        f'<linearGradient id="{name}">{stops.format(end)}</linearGradient>'
        for name, end in (("a", "#333"), ("b", "#fff"))
    )
    drawn = shapes(
        f'<defs>{dark}{light}</defs><g fill="#fff"><path d="M1 1h9v9z"/><path d="M1 1h9v9z" fill="url(#a)"/>'
        '<path d="M1 1h9v9z" fill="url(#b)"/></g>'
    )
    assert [shape.get("fill") for shape in drawn] == ["#fff", "#000", "#fff"]


def test_light_and_shade_are_left_out_and_lines_are_as_wide_in_a_part_that_is_scaled() -> None:
    body = '<rect width="9" height="9" fill="#fff" {}/>'
    faint, solid, grouped = (
        shapes(text)[0]
        for text in (
            body.format(f'opacity="{FAINT - 0.1}"'),
            body.format(f'fill-opacity="{FAINT + 0.1}"'),
            '<g opacity="0.6">' + body.format('opacity="0.6"') + "</g>",
        )
    )
    assert [shape.get("display") for shape in (faint, solid, grouped)] == ["none", None, "none"]
    turned, larger = (
        shapes(body.format(f'transform="{how}"'))[0]
        for how in ("matrix(0.7071 -0.7071 0.7071 0.7071 -2.4 41)", "scale(4)")
    )
    assert float(turned.get("stroke-width", 0)) == pytest.approx(2, rel=1e-3)
    assert float(larger.get("stroke-width", 0)) == pytest.approx(0.5)


def test_a_free_pen_fills_some_shapes_the_other_way() -> None:
    body = "".join(
        f'<rect x="{at}" width="1" height="1" fill="{fill}"/>' for fill in ("#fff", "#000") for at in range(60)
    )
    pen = Pen(0.05, 0.3, 0.25)
    fills = [shape.get("fill") for shape in shapes(body, pen)]
    assert fills == [shape.get("fill") for shape in shapes(body, pen)], "the lot follows from the drawing"
    light, dark = fills[:60], fills[60:]
    assert 5 < light.count("#000") < 28 and 5 < dark.count("#fff") < 28
    assert [shape.get("fill") for shape in shapes(body)] == ["#fff"] * 60 + ["#000"] * 60
    assert shapes('<rect width="9" height="9" fill="none"/>', Pen(0.05, 0.3, 1.0))[0].get("fill") == "none"


def test_every_coloured_style_is_inked_with_every_pen_as_ink_on_nothing(tmp_path: Path) -> None:
    drawn = {style: svg_of("axe", style) for style in ("openmoji", "twemoji")}
    (tmp_path / "styles.json.xz").write_bytes(lzma.compress(json.dumps({"axe": drawn}).encode()))
    drawings, _ = load_drawings(tmp_path)
    assert drawings.shape == (1, len(ALL_STYLES), DRAWING, DRAWING, 4)
    ink = {style: drawings[0, at] for at, style in enumerate(ALL_STYLES)}
    there = {style for style, drawing in ink.items() if drawing[..., 3].any()}
    assert there == {*drawn, *(name for name, (style, _) in INKED.items() if style in drawn)}
    for style in drawn:
        fine, bold, coloured = (ink[name][..., 3] / 255 for name in (f"{style}-fine", f"{style}-bold", style))
        assert not ink[f"{style}-fine"][..., :3].any()  # black
        assert 0.02 < fine.mean() < bold.mean()
        assert fine.mean() < 0.8 * coloured.mean()  # the blade is paper
        rim = np.concatenate([bold[0], bold[-1], bold[:, 0], bold[:, -1]])
        assert rim.max() < 0.5  # the outer line is whole
    assert ALL_STYLES[: len(STYLES)] == STYLES

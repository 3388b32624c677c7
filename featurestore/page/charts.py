"""From a Matplotlib figure to SVG in a page: real text, the page's colours, and a description for who cannot see it.

Charts are drawn in Matplotlib's own colours (`black`, `tab:blue`); here they become variables of the style sheet, which
have other values on a dark screen.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from featurestore.errors import UsageError
from featurestore.page.page import Html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS_PER_INCH = 72
"""So that a chart's units are the pixels of a page."""
WIDTH = 360
"""Of a chart: a phone shows it as it is, a wide screen three beside each other, hardly larger."""
WIDE = 780
COLOUR = re.compile(r"#[0-9a-f]{6}")
COLOURS = {
    "#000000": "currentColor",
    "#ffffff": "var(--surface)",
    "#b0b0b0": "var(--grid)",
    "#cccccc": "var(--grid)",
    "#808080": "var(--muted)",
    "#7f7f7f": "var(--muted)",
    "#1f77b4": "var(--blue)",
    "#ff7f0e": "var(--orange)",
    "#2ca02c": "var(--green)",
    "#d62728": "var(--red)",
    "#9467bd": "var(--purple)",
}
"""Matplotlib's black, white, grid, greys and `tab:` colours → those of the page."""
SETTINGS: Any = {  # matplotlib's stubs list 300 names as literals
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "image.composite_image": False,  # pictures keep their own pixels
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "font.size": 10.5,
    "axes.labelsize": 10.5,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
}

Draw = Callable[["Figure"], object]
Titles = Mapping[str, Sequence[str]]
"""`gid` of a scatter → what to show when one of its marks is pointed at, mark by mark."""
MARKS = ("path", "use")


def require_matplotlib() -> type[Figure]:
    """The class of figures.

    Raises:
        UsageError: when Matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("pictures need matplotlib, which is not installed: pip install matplotlib") from error
    return Figure


def to_svg(  # noqa: PLR0913 - two of them for few charts
    draw: Draw,
    label: str,
    height: int,
    width: int = WIDTH,
    titles: Titles | None = None,
    *,
    placed: bool = False,
) -> Html:
    """A chart.

    Args:
        draw: fills a figure.
        label: what it shows, with its main numbers: read aloud, and found by tests.
        height: in pixels, at its natural width.
        width: likewise.
        titles: of marks.
        placed: the axes have their places; finding them takes Matplotlib longer than all the rest.

    Raises:
        UsageError: when Matplotlib is not installed.
    """
    figure_class = require_matplotlib()
    from matplotlib import rc_context

    written = io.BytesIO()
    with rc_context({**SETTINGS, "svg.hashsalt": f"{label} {width}"}):  # ids differ from chart to chart, not from run to run
        figure = figure_class(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH))
        if not placed:
            figure.set_layout_engine("constrained")
        draw(figure)
        figure.savefig(written, format="svg", metadata={"Date": None})
    return _inline(written.getvalue(), label, titles or {})


def map_axes(axis: Any, of: str = "", *, fill: bool = False) -> None:
    """Axes of a map that is to scale: kilometres east and north of something; widened until they fill their place, or not."""
    axis.set_aspect("equal", adjustable="datalim" if fill else "box")
    axis.set_xlabel(f"km east{of}")
    axis.set_ylabel(f"km north{of}")
    axis.grid(alpha=0.5, linewidth=0.6)


def both_sizes(draw: Draw, label: str, heights: tuple[int, int], titles: Titles | None = None) -> Html:
    """A chart that is worth a wide screen, and drawn again for a phone: heights are of the wide and the narrow one."""
    wide = to_svg(draw, label, heights[0], WIDE, titles).replace("<svg ", '<svg class="wide" ', 1)
    narrow = to_svg(draw, label, heights[1], WIDTH, titles).replace("<svg ", '<svg class="narrow" ', 1)
    return Html(wide + narrow)


def _inline(document: bytes, label: str, titles: Titles) -> Html:
    """The chart as a part of a page, without what belongs to a file of its own: namespaces, size, metadata, style."""
    root = ET.fromstring(document)  # noqa: S314 - Matplotlib wrote it, just now
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', document.decode()))
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for node in root.iter():
        node.tag = _local(node.tag)
    for node in root.iter():
        node.attrib = {_local(key): value for key, value in node.attrib.items()}
        if "style" in node.attrib:
            node.set("style", COLOUR.sub(lambda colour: COLOURS.get(colour[0], colour[0]), node.attrib["style"]))
        name = node.attrib.get("id", "")
        _add_titles(node, titles.get(name, ()))
        if name and name not in used:  # every chart has a figure_1
            del node.attrib["id"]
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib.update({"role": "img", "aria-label": label})
    return Html(ET.tostring(root, encoding="unicode"))


def _add_titles(scatter: ET.Element, texts: Sequence[str]) -> None:
    """Matplotlib writes marks of one size as uses of a definition, others as paths, in their order."""
    defined = {id(node) for definition in scatter.iter("defs") for node in definition.iter()}
    marks = [node for node in scatter.iter() if node.tag in MARKS and id(node) not in defined]
    for mark, text in zip(marks, texts, strict=False):
        ET.SubElement(mark, "title").text = text


def _local(name: str) -> str:
    return name.rpartition("}")[2]

"""The pictures of a page as SVG files of their own, for slides and papers: with the colours of a light screen."""

from __future__ import annotations

import re
from pathlib import Path

from featurestore.errors import UsageError
from featurestore.page.page import STYLE
from featurestore.whole_file import whole_file

SECTION = re.compile(r'<section id="([^"]*)">(.*?)</section>', re.DOTALL)
FIGURE = re.compile(r"<figure\b.*?</figure>", re.DOTALL)
TITLE = re.compile(r"<figcaption><b>(.*?)</b>", re.DOTALL)
PICTURE = re.compile(r"<svg (?!class=\"narrow\").*?</svg>", re.DOTALL)
"""Of a chart that is drawn for two sizes, the one for a wide screen."""
VARIABLE = re.compile(r"var\(--(\w+)\)")
LIGHT = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", STYLE.partition("@media")[0]))


def save_pictures(document: str, directory: Path) -> list[Path]:
    """Write every picture of a page as `NN-section-title.svg`.

    Args:
        document: the page whose figures they are.
        directory: created when absent.

    Returns:
        The files, in the page's order.

    Raises:
        UsageError: when the directory cannot be made or written to.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {directory} cannot be made ({error.strerror}); choose another directory") from error
    written: list[Path] = []
    for section, content in SECTION.findall(document):
        for figure in FIGURE.findall(content):
            title = TITLE.search(figure)
            for picture in PICTURE.findall(figure):
                name = f"{len(written) + 1:02}-{section}-{_slug(title[1] if title else '')}".rstrip("-")
                path = directory / f"{name}.svg"
                with whole_file(path) as file:
                    file.write(_standalone(picture).encode())
                written.append(path)
    return written


def _standalone(picture: str) -> str:
    """A part of a page → a document: namespace, ink, and colours instead of variables of the style sheet."""
    coloured = VARIABLE.sub(lambda variable: LIGHT[variable[1]], picture).replace("currentColor", LIGHT["ink"])
    space = f'<svg xmlns="http://www.w3.org/2000/svg" fill="{LIGHT["ink"]}" font-family="sans-serif" '
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + coloured.replace("<svg ", space, 1) + "\n"


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower())[:60].strip("-")

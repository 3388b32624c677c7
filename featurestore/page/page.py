"""A report as one HTML page: a template that shows what the page looks like, filled with records that hold what it says.

Each report has a template of its own beside the code that fills it (`{package}/{name}.html`); it extends `page.html`, and
takes sections, tables and charts from `parts.html`, both here. All text is escaped by Jinja, but for what is HTML already
(`Html`: pictures and the style sheet), and a content policy forbids whatever slipped through.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from featurestore.errors import UsageError
from featurestore.software import versions
from featurestore.whole_file import whole_file

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Content-Security-Policy: styles of the page itself and pictures inside it, and nothing else."""
STYLE = files("featurestore.page").joinpath("style.css").read_text(encoding="utf-8")


class Html(str):
    """A text that is HTML already, and is not escaped."""

    __slots__ = ()

    def __html__(self) -> str:
        return str(self)


@dataclass(frozen=True)
class Card:
    """A number that a reader looks for first."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Key:
    """What a colour of the style sheet means in a picture, and the mark that has it."""

    colour: str
    name: str
    mark: str = "■"


@dataclass(frozen=True)
class Chart:
    """A picture and what to know of it.

    Attributes:
        title: what it shows.
        picture: from `charts.to_svg`.
        caption: how to read it.
        legend: what colours mean.
        large: as wide as the page allows.
    """

    title: str
    picture: Html
    caption: str = ""
    legend: Sequence[Key] = ()
    large: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: what it shows.
        header: names of the columns.
        rows: as many cells each, or fewer; a cell that is `Html` is written as it is.
        text: columns to the left; the others hold numbers, to the right.
        long: columns whose text may wrap.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: Collection[int] = (0,)
    long: Collection[int] = ()

    def kind(self, column: int) -> str:
        """The style of a column's cells."""
        return "long" if column in self.long else "text" if column in self.text else ""


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes:
        template: `{package}/{name}.html`.
        title: its heading.
        lead: lines below the heading.
        cards: the numbers that matter most.
        data: what the template's sections name.
    """

    template: str
    title: str
    lead: Sequence[str]
    cards: Sequence[Card]
    data: Mapping[str, Any]

    def render(self) -> str:
        """The document."""
        return (
            _templates()
            .get_template(self.template)
            .render(
                **self.data,
                title=self.title,
                lead=self.lead,
                cards=self.cards,
                sections=[],  # names of the sections, in order: `section` adds them, the navigation shows them
                policy=POLICY,
                style=Html(STYLE),
                now=datetime.now(UTC),
                software=versions(),
            )
        )

    def save(self, path: Path) -> str:
        """Write the document, whole or not at all; returns it.

        Raises:
            UsageError: when the file cannot be written.
        """
        document = self.render()
        with whole_file(path) as file:
            file.write(document.encode())
        return document


@cache
def _templates() -> Environment:
    def load(name: str) -> str:
        package, _, file = name.partition("/")
        return files(package).joinpath(file).read_text(encoding="utf-8")

    environment = Environment(
        autoescape=True,
        loader=FunctionLoader(load),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["anchor"] = lambda title: re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    return environment


def require_place(path: Path) -> None:
    """Refuse a file that could not be written in the end, before anything costly is done; makes its directory.

    Raises:
        UsageError: when it is a directory, or its directory cannot be made or written to.
    """
    if path.is_dir():
        raise UsageError(f"--html {path} is a directory; give the name of a file in it, such as {path / 'report.html'}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--html {path}: its directory cannot be made ({error.strerror}); choose another one") from error
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"--html {path}: its directory cannot be written to; choose another one")


def shorten(names: Sequence[str], most: int = 8) -> str:
    """The first of a list, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

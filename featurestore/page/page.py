"""The shell of a page: elements that escape what they are given, tables, figures in numbers, sections, the whole document.

Whatever is not `Html` already is text, and is escaped; and the page's policy forbids scripts and everything from elsewhere,
so that a label which slipped through could still do nothing.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from featurestore.errors import UsageError
from featurestore.software import versions
from featurestore.whole_file import whole_file

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Content-Security-Policy: styles of the page itself and pictures inside it, and nothing else."""
STYLE = files("featurestore.page").joinpath("style.css").read_text(encoding="utf-8")
VOID = frozenset({"meta"})


class Html(str):
    """A text that is HTML already."""

    __slots__ = ()


@dataclass(frozen=True)
class Section:
    """A part of a page, with a heading that the page's navigation names."""

    title: str
    content: tuple[str, ...]

    @property
    def id(self) -> str:
        """Its anchor."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


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
class Page:
    """A whole report.

    Attributes:
        title: its heading.
        lead: lines below the heading.
        cards: the numbers that matter most.
        sections: in order.
    """

    title: str
    lead: tuple[str, ...]
    cards: tuple[Card, ...]
    sections: tuple[Section, ...]

    def render(self) -> str:
        """The document."""
        head = element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", http_equiv="Content-Security-Policy", content=POLICY),
            element("title", self.title),
            Html(f"<style>{STYLE}</style>"),
        )
        links = [element("li", element("a", section.title, href=f"#{section.id}")) for section in self.sections]
        body = element(
            "body",
            element("header", element("h1", self.title), *(paragraph(line, "lead") for line in self.lead), cards(self.cards)),
            element("nav", element("ul", *links), aria_label="Sections"),
            element("main", *map(_section, self.sections)),
            element("footer", paragraph(_made())),
        )
        return "<!DOCTYPE html>\n" + element("html", head, body, lang="en") + "\n"

    def save(self, path: Path) -> None:
        """Write the document, whole or not at all.

        Raises:
            UsageError: when the file cannot be written.
        """
        with whole_file(path) as file:
            file.write(self.render().encode())


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


def element(name: str, /, *children: str, **attributes: str) -> Html:
    """`<name …>children</name>`; text among children is escaped, and `aria_label` is written `aria-label`, `class_` `class`."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value, quote=True)}"' for key, value in attributes.items()
    )
    if name in VOID:
        return Html(f"<{name}{written}>")
    inside = "".join(child if isinstance(child, Html) else html.escape(child) for child in children)
    return Html(f"<{name}{written}>{inside}</{name}>")


def paragraph(text: str, kind: str = "") -> Html:
    """A paragraph; kinds are classes of the style sheet: `note`, `warning`, `lead`, `verdict`."""
    return element("p", text, class_=kind) if kind else element("p", text)


def cards(found: Iterable[Card]) -> Html:
    """Numbers, each with its name above and more of it below."""
    return element("dl", *(element("div", *_card(card)) for card in found), class_="cards")


def _card(card: Card) -> list[Html]:
    parts = [element("dt", card.label), element("dd", card.value)]
    return [*parts, element("dd", card.detail, class_="detail")] if card.detail else parts


def table(
    caption: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    text: Collection[int] = (0,),
    long: Collection[int] = (),
) -> Html:
    """A table that scrolls in its own box when it is too wide.

    Args:
        caption: what it shows.
        header: names of the columns.
        rows: as many cells each, or fewer.
        text: columns to the left; the others hold numbers, to the right.
        long: columns whose text may wrap.
    """

    def kind(column: int) -> dict[str, str]:
        return {"class_": "long"} if column in long else {"class_": "text"} if column in text else {}

    head = [element("th", cell, scope="col", **({"class_": "text"} if kind(i) else {})) for i, cell in enumerate(header)]
    padded = ([*row, *[""] * (len(header) - len(row))] for row in rows)
    body = [element("tr", *(element("td", cell, **kind(i)) for i, cell in enumerate(row))) for row in padded]
    content = (element("caption", caption), element("thead", element("tr", *head)), element("tbody", *body))
    return element("div", element("table", *content), class_="scroll", tabindex="0", role="region", aria_label=caption)


def shorten(names: Sequence[str], most: int = 8) -> str:
    """The first of a list, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def charts(*figures: str) -> Html:
    """Figures beside each other, as many as fit."""
    return element("div", *figures, class_="charts")


def beside(*parts: str) -> Html:
    """Tables and figures of different width beside each other, as many as fit."""
    return element("div", *parts, class_="beside")


def figure(title: str, picture: str, caption: str = "", legend: Iterable[Key] = (), *, large: bool = False) -> Html:
    """A picture with its title above, what colours mean, and what to know below.

    Args:
        title: what it shows.
        picture: from `charts.to_svg`.
        caption: how to read it.
        legend: what colours mean.
        large: as wide as the page allows.
    """
    marks = [
        element("li", element("span", key.mark, style=f"color: var(--{key.colour})", aria_hidden="true"), key.name)
        for key in legend
    ]
    parts = [element("figcaption", element("b", title))]
    parts += [element("ul", *marks, class_="legend")] if marks else []
    parts += [Html(picture)] + ([element("figcaption", caption)] if caption else [])
    return element("figure", *parts, **({"class_": "large"} if large else {}))


def _section(section: Section) -> Html:
    return element("section", element("h2", section.title), *section.content, id=section.id)


def _made() -> str:
    software = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by {software}. Nothing on this page is fetched from elsewhere."

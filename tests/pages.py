"""What a report says, read from its HTML: headings, cards and tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path


@dataclass
class Read(HTMLParser):
    """A page's text by what it is in.

    Attributes:
        headings: of the page and its sections.
        cards: label → value.
        tables: caption → lines of cells, the header first.
        labels: descriptions of charts.
        tags: names of all elements.
    """

    headings: list[str] = field(default_factory=list)
    cards: dict[str, str] = field(default_factory=dict)
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self._name, self._class, self._caption, self._term = "", "", "", ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.add(tag)
        if tag == "strong":  # a cell goes on
            return
        self._name, self._class = tag, attributes.get("class") or ""
        if tag == "tr":
            self.tables[self._caption].append([])
        elif tag in ("td", "th"):
            self.tables[self._caption][-1].append("")
        elif tag == "svg":
            self.labels.append(attributes.get("aria-label") or "")

    def handle_endtag(self, tag: str) -> None:
        if tag != "strong":
            self._name = ""

    def handle_data(self, data: str) -> None:
        if self._name in ("td", "th"):
            self.tables[self._caption][-1][-1] += data
        elif self._name == "caption":
            self._caption = data
            self.tables[data] = []
        elif self._name in ("h1", "h2"):
            self.headings.append(data)
        elif self._name == "dt":
            self._term = data
        elif self._name == "dd" and self._class != "detail":
            self.cards[self._term] = data
        if self._name != "style":
            self.text += data + "\n"

    def rows(self, caption: str) -> dict[str, list[str]]:
        """The table whose caption begins so: first cell → the others."""
        name = next(name for name in self.tables if name.startswith(caption))
        return {row[0]: row[1:] for row in self.tables[name][1:]}


def read_page(path: Path) -> Read:
    """A page that was written."""
    read = Read()
    read.feed(path.read_text(encoding="utf-8"))
    return read

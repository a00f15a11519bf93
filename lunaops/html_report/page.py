"""Sections of text, numbers, tables and pictures become one HTML file that needs nothing else."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Number:
    """One number to be seen first: what it is, its value, and how sure it is or what it is of."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Numbers:
    """Some numbers side by side."""

    numbers: Sequence[Number]
    kind: ClassVar[str] = "numbers"


@dataclass(frozen=True)
class Shaded:
    """A table's cell on a ground as strong as its share, from 0 to 1."""

    text: str
    share: float


@dataclass(frozen=True)
class Table:
    """A row's first cell is its heading; the first `text_columns` columns hold text, the others numbers."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Shaded]]
    text_columns: int = 1
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Chart:
    """A chart as `chart_svg.inline_svg` makes it."""

    svg: str
    caption: str = ""
    kind: ClassVar[str] = "chart"


@dataclass(frozen=True)
class Charts:
    """Charts side by side where the page is wide enough."""

    charts: Sequence[Chart]
    kind: ClassVar[str] = "charts"


@dataclass(frozen=True)
class Picture:
    """A PNG image, what is to be seen on it, and facts about it: name and value."""

    png: bytes
    size: tuple[int, int]
    alt: str
    facts: Sequence[tuple[str, str]]

    @property
    def source(self) -> str:
        """The image itself, as an address."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class PictureRow:
    """Pictures side by side, below a heading of their own."""

    title: str
    pictures: Sequence[Picture]
    kind: ClassVar[str] = "pictures"


Block = Text | Numbers | Table | Charts | PictureRow


@dataclass(frozen=True)
class Section:
    """A part of the page with an entry in its table of contents, where `anchor` leads."""

    anchor: str
    title: str
    blocks: Sequence[Block]


def render_page(title: str, subtitle: str, sections: Sequence[Section], *, foot: Sequence[str]) -> str:
    """The whole page. Every text is escaped; only a chart's markup is taken as it is. Equal arguments, equal text."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.tests["shaded"] = lambda cell: isinstance(cell, Shaded)
    page = environment.get_template("page.html")
    return page.render(title=title, subtitle=subtitle, sections=sections, foot=foot)

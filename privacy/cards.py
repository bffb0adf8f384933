"""Cards: how a ledger or a certificate shows itself, as text and as HTML for notebooks.

The HTML is self-contained: no script and no network, and every value is escaped.

>>> print(Card("a title", ("one fact",), ({"sum": "delta", "norm": 2.0},)))
a title
  one fact
  sum    norm
  delta  2.0
"""

import abc
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

_STYLE = (
    ".secfad-card{font:14px/1.5 system-ui,sans-serif}"
    ".secfad-card table{border-collapse:collapse;margin:.4em 0}"
    ".secfad-card td,.secfad-card th{padding:.1em .7em;text-align:left;border-bottom:1px solid #d0d7de}"
)


@dataclasses.dataclass(frozen=True)
class Card:
    """A title, facts and a table.

    Attributes:
      title: One line.
      facts: One line each.
      rows: Of the table, each with the same columns by name.
    """

    title: str
    facts: Sequence[str] = ()
    rows: Sequence[Mapping[str, Any]] = ()

    def __str__(self) -> str:
        return "\n  ".join([self.title, *self.facts, *self._aligned()])

    def _repr_html_(self) -> str:
        """The card for a notebook."""
        facts = "".join(f"<br>{escape(fact)}" for fact in self.facts)
        return (
            f'<div class="secfad-card"><style>{_STYLE}</style>'
            f"<b>{escape(self.title)}</b>{facts}{self._table()}</div>"
        )

    def _cells(self) -> list[list[str]]:
        """The heading and the rows, as text."""
        if not self.rows:
            return []
        return [list(self.rows[0]), *([str(v) for v in row.values()] for row in self.rows)]

    def _aligned(self) -> Iterator[str]:
        cells = self._cells()
        widths = [max(map(len, column)) for column in zip(*cells)]
        for row in cells:
            yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()

    def _table(self) -> str:
        """The rows as an HTML table; nothing without rows."""
        if not self.rows:
            return ""
        head, *body = (
            "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row)
            for row, tag in zip(self._cells(), ["th", *["td"] * len(self.rows)])
        )
        return "<table>" + "".join(f"<tr>{row}</tr>" for row in (head, *body)) + "</table>"


class Shown(abc.ABC):
    """An object that shows its card."""

    @abc.abstractmethod
    def card(self, /) -> Card:
        """What the object shows of itself."""

    def __str__(self) -> str:
        return str(self.card())

    def _repr_html_(self) -> str:
        return self.card()._repr_html_()

"""Layout: where the parts of a picture of a schedule go, in pixels.

Time runs to the right in rows of limited width, like text. A row has the lane of the server above
that of the clients; messages and their labels lie between. A server box may stand above labels, so
two cursors are kept: one for the lanes, one for the space between them. What belongs to one loop or
branch is framed; a frame that goes on in the next row is open at that side.
"""

import dataclasses
import unicodedata
from collections.abc import Sequence

from secfad.jaxprs.equations import Atom, Cond
from secfad.programs.costs import nbytes
from secfad.programs.stages import Nested, Round, Schedule, Stage
from secfad.views.tables import Payload, equations, payloads, shape, silent, size, title

LETTER, BOX, MARGIN, WIDTH = 6.0, 98, 64, 1000
_GAP, _MOST = 14, 5


@dataclasses.dataclass(frozen=True)
class Box:
    """What one side computes between two messages."""

    kind: str
    x: float
    label: str
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Arrow:
    """Messages that travel together; labels are pairs of a name and what is sent."""

    x: float
    downwards: bool
    labels: tuple[tuple[str, str], ...]


@dataclasses.dataclass
class Frame:
    """Control flow around boxes; `opened` and `closed` say whether it begins and ends in this row."""

    label: str
    depth: int
    start: float
    end: float = 0
    opened: bool = True
    closed: bool = False
    note: str = ""


@dataclasses.dataclass
class Line:
    """One row of the picture."""

    boxes: list[Box] = dataclasses.field(default_factory=list)
    arrows: list[Arrow] = dataclasses.field(default_factory=list)
    frames: list[Frame] = dataclasses.field(default_factory=list)
    width: float = 0


def layout(plan: Schedule) -> list[Line]:
    """The rows of the picture of a schedule."""
    return _Layout().of(plan)


class _Layout:
    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.open: list[Frame] = []
        self.rounds = 0
        self.start_line()

    def of(self, plan: Schedule) -> list[Line]:
        self.schedule(plan)
        self.end_line()
        return self.lines

    def start_line(self) -> None:
        self.line = Line()
        self.lines.append(self.line)
        self.lane = self.between = float(MARGIN)
        for number, frame in enumerate(self.open):
            again = dataclasses.replace(frame, start=self.lane + 6 * number, opened=False)
            self.open[number] = again
            self.line.frames.append(again)
        self.indent(6 * len(self.open))

    def end_line(self) -> None:
        self.indent(4)
        for frame in self.open:
            frame.end = max(self.lane, WIDTH - 4.0 * frame.depth)
        right = [frame.end for frame in self.line.frames]
        self.line.width = max([self.lane, self.between, *right])

    def indent(self, by: float) -> None:
        self.lane = self.between = max(self.lane, self.between) + by

    def room(self, right: float) -> bool:
        """Whether something that ends there still belongs to this row; breaks it if not."""
        if right <= WIDTH or not (self.line.boxes or self.line.arrows):
            return True
        self.end_line()
        self.start_line()
        return False

    def schedule(self, plan: Schedule) -> None:
        for item in plan.items:
            match item:
                case Stage():
                    self.server(item)
                case Round():
                    self.round(item, plan)
                case Nested() if any(body.items for body in item.bodies):
                    self.nested(item)

    def server(self, stage: Stage) -> None:
        self.room(self.lane + BOX)
        self.line.boxes.append(Box("server", self.lane, equations(stage)))
        self.lane += BOX + _GAP

    def round(self, item: Round, plan: Schedule) -> None:
        """A client box between the arrows of its messages."""
        down, up = map(_labels, payloads(item, plan))
        left, right = _width(down), _width(up)
        self.room(self._center(left) + BOX + right)
        x = self._center(left)
        self.rounds += bool(up)
        name = f"round {self.rounds}" if up else silent(item)
        kept = (f"keeps {size(nbytes(item.kept))}",) if item.kept else ()
        self.line.boxes.append(Box("client", x, equations(item.client), (name, *kept)))
        if down:
            self.line.arrows.append(Arrow(x + 12, True, down))
        if up:
            self.line.arrows.append(Arrow(x + BOX - 12, False, up))
        self.lane = x + BOX + _GAP / 2
        self.between = x + BOX - 12 + right + _GAP

    def _center(self, left: float) -> float:
        return max(self.lane, self.between + left - 12)

    def nested(self, item: Nested) -> None:
        with_branches = isinstance(item.step, Cond)
        self.enter(title(item))
        for number, body in enumerate(item.bodies):
            if with_branches:
                self.enter(f"branch {number}")
            self.schedule(body)
            if with_branches:
                self.leave()
        self.leave(f"keeps {size(nbytes(item.kept))}" if item.kept else "")

    def enter(self, label: str) -> None:
        self.indent(_GAP)
        self.room(max(self.lane, self.between) + 3 * BOX)
        frame = Frame(label, len(self.open), max(self.lane, self.between))
        self.open.append(frame)
        self.line.frames.append(frame)
        self.indent(8)

    def leave(self, note: str = "") -> None:
        self.indent(0)
        frame = self.open.pop()
        least = frame.start + LETTER * max(cells(frame.label), cells(note)) + 2 * _GAP
        self.lane = self.between = max(self.lane, least)
        frame.end, frame.closed, frame.note = self.lane, True, note
        self.indent(8)


def cells(words: str) -> int:
    """Width of a text in letters; East Asian ones count twice."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in words)


def _width(labels: Sequence[tuple[str, str]]) -> float:
    return LETTER * max((cells(words) for pair in labels for words in pair), default=0) + _GAP


def _labels(sent: Sequence[Payload]) -> tuple[tuple[str, str], ...]:
    """Messages as pairs of lines; if there are many, the last pair stands for the rest."""
    shown = sent if len(sent) <= _MOST else sent[: _MOST - 1]
    pairs = [(_short(name), f"{_arrays(values)}, {size(nbytes(values))}") for name, values in shown]
    if len(shown) < len(sent):
        rest = [v for _, values in sent[len(shown) :] for v in values]
        pairs.append((f"and {len(sent) - len(shown)} more", size(nbytes(rest))))
    return tuple(pairs)


def _arrays(values: Sequence[Atom]) -> str:
    return shape(values) if len(values) <= 2 else f"{len(values):,} arrays"


def _short(name: str) -> str:
    return name if cells(name) <= 30 else f"{name[:16]}…{name[-13:]}"

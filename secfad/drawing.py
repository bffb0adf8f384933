"""Drawing: the federated computational graph of a program as SVG.

Two lanes, the server above and the clients below; time runs to the right. Boxes are stages, arrows
are messages with their names and sizes, and a frame around several boxes is control flow that the
server drives. The layout is a single pass from left to right, without a library.

Source: Rush, Charles, Garrett (JMLR 2024), Figs. 2-5 and 12.
"""

import dataclasses
from html import escape

from secfad.costs import costs, nbytes
from secfad.stages import Nested, Round, Schedule, Stage
from secfad.tables import messages, size, summary, title

_SERVER_Y, _CLIENT_Y, _BOX = 64, 214, 44
_GAP, _LETTER, _LINE = 26, 6.2, 14
_STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#1c2733}.small{font-size:10px;fill:#4a5866}"
    ".lane{stroke:#c8d0d8;stroke-dasharray:3 4}.server{fill:#dbe8f6;stroke:#35618f}"
    ".client{fill:#e4f1de;stroke:#4b7f3b}.frame{fill:none;stroke:#8a8f98;stroke-dasharray:5 3}"
    ".message{stroke:#1c2733;fill:none;marker-end:url(#head)}"
)


def to_svg(name: str, plan: Schedule) -> str:
    """The schedule as a picture; every message with its shape and its payload per client."""
    canvas = _Canvas()
    canvas.schedule(plan, 0)
    width = max(canvas.x + _GAP, _LETTER * len(summary(costs(plan))) + 2 * _GAP)
    height = _CLIENT_Y + _BOX + 62
    lanes = [
        f'<line class="lane" x1="66" y1="{y}" x2="{width - 8:.0f}" y2="{y}"/>'
        f'<text x="8" y="{y + 4}">{label}</text>'
        for y, label in ((_SERVER_Y + _BOX / 2, "server"), (_CLIENT_Y + _BOX / 2, "clients"))
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
            f'viewBox="0 0 {width:.0f} {height}" role="img" aria-label="{escape(name)}">',
            f"<style>{_STYLE}</style>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>',
            f'<text x="8" y="18" font-weight="bold">{escape(name)}</text>',
            *lanes,
            *canvas.parts,
            f'<text class="small" x="8" y="{height - 10}">{escape(summary(costs(plan)))}</text>',
            "</svg>",
        ]
    )


@dataclasses.dataclass
class _Canvas:
    """What has been drawn, and where the next thing goes."""

    parts: list[str] = dataclasses.field(default_factory=list)
    x: float = 70

    def schedule(self, plan: Schedule, depth: int) -> None:
        for item in plan.items:
            match item:
                case Stage():
                    self.box("server", _SERVER_Y, f"{len(item.jaxpr.eqns)} eqns", 64)
                case Round():
                    self.round(item, plan)
                case Nested():
                    self.nested(item, depth)

    def box(self, kind: str, y: float, label: str, width: float) -> None:
        self.parts.append(
            f'<rect class="{kind}" x="{self.x:.0f}" y="{y}" width="{width:.0f}" height="{_BOX}" rx="5"/>'
        )
        self.text(self.x + width / 2, y + _BOX / 2 + 4, label)
        self.x += width + _GAP

    def text(self, x: float, y: float, words: str, anchor: str = "middle") -> None:
        self.parts.append(
            f'<text class="small" x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(words)}</text>'
        )

    def round(self, item: Round, plan: Schedule) -> None:
        """A client stage between the arrows of its messages."""
        down, up = messages(item, plan)
        labels = [[f"{n}  {s}  {b}" for n, s, b in rows] for rows in (down, up)]
        left, right = (_LETTER * max(map(len, rows), default=0) for rows in labels)
        start, box = self.x, 92
        center = start + left + 24
        self.x = center
        kept = f"keeps {size(nbytes(item.kept))}" if item.kept else ""
        self.box("client", _CLIENT_Y, f"{len(item.client.jaxpr.eqns)} eqns", box)
        self.text(center + box / 2, _CLIENT_Y + _BOX + 16, kept)
        top, bottom = _SERVER_Y + _BOX, _CLIENT_Y
        if down:
            self.arrow(center + 14, top, center + 14, bottom)
            self.labels(labels[0], center + 6, "end")
        if up:
            self.arrow(center + box - 14, bottom, center + box - 14, top)
            self.labels(labels[1], center + box - 6, "start")
        self.x = center + box + right + _GAP

    def arrow(self, x1: float, y1: float, x2: float, y2: float) -> None:
        self.parts.append(
            f'<line class="message" x1="{x1:.0f}" y1="{y1}" x2="{x2:.0f}" y2="{y2}"/>'
        )

    def labels(self, lines: list[str], x: float, anchor: str) -> None:
        first = (_SERVER_Y + _BOX + _CLIENT_Y) / 2 - _LINE * (len(lines) - 1) / 2
        for number, words in enumerate(lines):
            self.text(x, first + _LINE * number, words, anchor)

    def nested(self, item: Nested, depth: int) -> None:
        """A frame around the bodies of control flow."""
        start = self.x
        self.x += 14
        for body in item.bodies:
            self.schedule(body, depth + 1)
        self.x = max(self.x, start + _LETTER * len(title(item)) + 20)
        inset = 6 * depth
        y, height = 34 + inset, _CLIENT_Y + _BOX - 10 - 2 * inset
        self.parts.append(
            f'<rect class="frame" x="{start:.0f}" y="{y}" width="{self.x - start:.0f}" '
            f'height="{height}" rx="8"/>'
        )
        self.text(start + 8, y + 13, title(item), "start")
        self.x += _GAP

"""Drawing: the federated computational graph of a program as SVG.

Two lanes, the server above and the clients below; time runs to the right, and on in the next row if
the program is long. Boxes are stages, arrows are messages with their names and sizes, and a frame
around several boxes is control flow that the server drives. What clients keep stands below them.

Source: Rush, Charles, Garrett (JMLR 2024), Figs. 2-5 and 12.
"""

from html import escape

from secfad.programs.costs import costs
from secfad.programs.stages import Schedule
from secfad.views.layout import BOX, LETTER, Arrow, Box, Frame, Line, cells, layout
from secfad.views.tables import summary

_HEIGHT, _TEXT, _TITLE = 34, 13, 15
_STYLE = (
    ".secfad text{font:11px system-ui,'DejaVu Sans',sans-serif;fill:#1c2733}"
    ".secfad .quiet{fill:#5a6875}.secfad .state{fill:#9a3b00}"
    ".secfad .lane{stroke:#b4bec8}.secfad .server{fill:#dbe8f6;stroke:#35618f}"
    ".secfad .client{fill:#e4f1de;stroke:#4b7f3b}"
    ".secfad .frame{fill:none;stroke:#8a8f98;stroke-dasharray:5 3}"
    ".secfad .message{stroke:#1c2733;marker-end:url(#secfad-head)}"
)
_HEAD = (
    '<defs><marker id="secfad-head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
    'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>'
)


def to_svg(name: str, plan: Schedule) -> str:
    """The schedule as a picture; messages with what travels and its payload per client.

    Of more than five messages that travel together, four are named and the others summed up.
    """
    lines, last = layout(plan), summary(costs(plan))
    parts, top = [], 34.0
    width = 16 + max(*(line.width for line in lines), LETTER * max(cells(name), cells(last)))
    for line in lines:
        drawn, top = _line(line, top, width)
        parts += drawn
    size = f'width="{width:.0f}" height="{top + 20:.0f}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="secfad" {size} '
            f'viewBox="0 0 {width:.0f} {top + 20:.0f}" role="img" aria-label="{_safe(name)}">',
            f"<style>{_STYLE}</style>",
            _HEAD,
            '<rect x="0" y="0" width="100%" height="100%" fill="#fff"/>',
            f'<text x="8" y="20" font-weight="bold">{_safe(name)}</text>',
            *parts,
            _text(8, top + 8, last, "quiet", "start"),
            "</svg>",
        ]
    )


def _line(line: Line, top: float, width: float) -> tuple[list[str], float]:
    """One row of the picture, and where the next begins."""
    depth = max((frame.depth + 1 for frame in line.frames), default=0)
    labels = max((2 * len(arrow.labels) for arrow in line.arrows), default=0)
    notes = max((len(box.notes) for box in line.boxes), default=0)
    server = top + _TITLE * depth + 8
    client = server + _HEIGHT + max(70, labels * _TEXT + 34)
    bottom = client + _HEIGHT + _TEXT * notes + 8
    parts = []
    for y, side in ((server + _HEIGHT / 2, "server"), (client + _HEIGHT / 2, "clients")):
        parts.append(f'<line class="lane" x1="54" y1="{y}" x2="{width - 8:.0f}" y2="{y}"/>')
        parts.append(_text(8, y + 4, side, "", "start"))
    parts += [_box(box, server if box.kind == "server" else client) for box in line.boxes]
    parts += [_arrow(arrow, server + _HEIGHT / 2, client) for arrow in line.arrows]
    inset = _TITLE if any(frame.note for frame in line.frames) else 0
    for frame in line.frames:
        ends = top + _TITLE * frame.depth, bottom + (inset + 5) * (depth - frame.depth - 1) + inset
        parts.append(_frame(frame, *ends))
    return parts, bottom + (inset + 5) * depth + 18


def _box(box: Box, y: float) -> str:
    center = box.x + BOX / 2
    parts = [
        f'<rect class="{box.kind}" x="{box.x:.1f}" y="{y:.1f}" width="{BOX}" height="{_HEIGHT}" rx="5"/>',
        _text(center, y + _HEIGHT / 2 + 4, box.label),
    ]
    for number, note in enumerate(box.notes):
        below = y + _HEIGHT + _TEXT * (number + 1)
        parts.append(_text(center, below, note, "state" if number else "quiet"))
    return "\n".join(parts)


def _arrow(arrow: Arrow, lane: float, client: float) -> str:
    """An arrow between the server's lane and a client box, with its labels beside it."""
    ends = (lane, client) if arrow.downwards else (client, lane)
    parts = [
        f'<circle cx="{arrow.x:.1f}" cy="{lane}" r="3"/>' if arrow.downwards else "",
        f'<line class="message" x1="{arrow.x:.1f}" y1="{ends[0]}" x2="{arrow.x:.1f}" y2="{ends[1]}"/>',
    ]
    side = -6 if arrow.downwards else 6
    anchor = "end" if arrow.downwards else "start"
    y = (lane + _HEIGHT / 2 + client) / 2 - _TEXT * (len(arrow.labels) - 1)
    for name, what in arrow.labels:
        parts.append(_text(arrow.x + side, y, name, "", anchor))
        parts.append(_text(arrow.x + side, y + _TEXT - 1, what, "quiet", anchor))
        y += 2 * _TEXT
    return "\n".join(filter(None, parts))


def _frame(frame: Frame, top: float, bottom: float) -> str:
    """A dashed frame, open at the side where it goes on in another row."""
    left, right = frame.start, frame.end
    sides = [f"M{left:.1f} {top:.1f}H{right:.1f}", f"M{left:.1f} {bottom:.1f}H{right:.1f}"]
    if frame.opened:
        sides.append(f"M{left:.1f} {top:.1f}V{bottom:.1f}")
    if frame.closed:
        sides.append(f"M{right:.1f} {top:.1f}V{bottom:.1f}")
    label = frame.label if frame.opened else f"… {frame.label}"
    parts = [f'<path class="frame" d="{"".join(sides)}"/>']
    parts.append(_text(left + 6, top + 12, label, "quiet", "start"))
    if frame.note:
        parts.append(_text(right - 6, bottom - 5, frame.note, "state", "end"))
    return "\n".join(parts)


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "middle") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text{style} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_safe(words)}</text>'


def _safe(words: str) -> str:
    """The words as XML; characters that it cannot hold are shown as unknown."""
    return escape("".join(c if c.isprintable() else "\ufffd" for c in words))

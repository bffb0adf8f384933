"""An auditor's page: one printable HTML page for a verified bundle, without script or network."""

from html import escape

from audits.proofs.bundles import Bundle
from audits.proofs.statements import NOT_SAID, Answer, Setting, answers, signature_of
from privacy.certificates.certificates import Bound, Certificate, Message

_MOST_ROWS, _MOST_ARROWS = 14, 16
_STYLE = """
@page{size:A4;margin:12mm}
body{font:12.5px/1.4 system-ui,'DejaVu Sans',sans-serif;max-width:48rem;margin:1.2rem auto;padding:0 1rem;
 color:#1b1f24}
h1{font-size:1.35rem;margin:0 0 .2rem} h2{font-size:1rem;margin:.8rem 0 .2rem} p,ul{margin:.15rem 0}
.quiet{color:#57606a} .verdict{font-weight:600} code{font-family:ui-monospace,monospace;font-size:.92em}
dl{display:grid;grid-template-columns:7.5rem 1fr;gap:.35rem .8rem;margin:.6rem 0}
dt{color:#57606a} dd{margin:0}
table{border-collapse:collapse;width:100%} td,th{padding:.1rem .5rem .1rem 0;
 text-align:left;white-space:nowrap;border-bottom:1px solid #d0d7de;font-variant-numeric:tabular-nums}
.columns{display:grid;grid-template-columns:1fr 1fr;gap:0 1.6rem} ul{padding-left:1.1rem}
svg text{font:10px system-ui,sans-serif}
@media print{body{font-size:8pt;line-height:1.3;margin:0;max-width:none;padding:0}
 h2{margin:.55rem 0 .15rem} dl{gap:.25rem .8rem;margin:.4rem 0} .quiet+table{margin-top:.2rem}}
"""


def page(bundle: Bundle, setting: Setting | None = None) -> str:
    """The page. Verify the bundle first: the page says that its proof was checked."""
    certificate = bundle.certificate
    title = f"Certificate of {certificate.subject}"
    rows = "".join(map(_answer, answers(certificate, setting)))
    assumed = "".join(f"<li>{escape(text)}</li>" for text in certificate.assumptions)
    unsaid = "".join(f"<li>{escape(text)}</li>" for text in NOT_SAID)
    mode = "primal" if "primal" in certificate.schedule else min(certificate.schedule, default="")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f'<p class="quiet">Issued {escape(bundle.issued or "on an unstated day")}. The proof in this '
        f"bundle was checked when the page was made.</p><dl>{rows}</dl>"
        f"<h2>Messages of {escape(mode)}</h2>{_graph(certificate, mode)}{_messages(certificate, mode)}"
        f'<div class="columns"><div><h2>Assumed</h2><ul>{assumed}</ul></div>'
        f"<div><h2>Not said</h2><ul>{unsaid}</ul></div></div>{_origin(bundle)}</body></html>\n"
    )


def _answer(answer: Answer) -> str:
    sentences = "".join(f"<p>{escape(text)}</p>" for text in answer.sentences)
    return (
        f'<dt>{escape(answer.question)}</dt><dd><p class="verdict">{escape(answer.verdict)}</p>'
        f"{sentences}</dd>"
    )


def _messages(certificate: Certificate, mode: str) -> str:
    messages = certificate.schedule.get(mode, ())
    bounds = iter(certificate.bounds.get(mode, ()))
    rows = [_row(m, next(bounds, None) if m.kind == "sum" else None) for m in messages]
    left = len(rows) - _MOST_ROWS
    more = f'<tr><td colspan="6">and {left} more in the bundle</td></tr>' if left > 0 else ""
    heads = ("round", "message", "value of one client", "times", "norm", "line")
    head = "".join(f"<th>{word}</th>" for word in heads)
    return f"<table><tr>{head}</tr>{''.join(rows[:_MOST_ROWS])}{more}</table>"


def _row(message: Message, bound: Bound | None) -> str:
    norm = "" if message.kind == "broadcast" else "unbounded" if bound is None else bound.norm
    cells = (
        message.phase if message.kind == "sum" else f"before {message.phase + 1}",
        f"{message.kind} {message.name}",
        f"{message.dtype}{list(message.shape)}",
        message.count,
        f"{norm:.6g}" if isinstance(norm, float) else norm,
        message.line.partition(" ")[0],
    )
    return "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>"


def _graph(certificate: Certificate, mode: str) -> str:
    """Server above, clients below, time to the right; an arrow per message, a mark per round."""
    messages = certificate.schedule.get(mode, ())[:_MOST_ARROWS]
    if not messages:
        return ""
    step, top, bottom = 80, 20, 84
    width = 60 + step * len(messages)
    lanes = "".join(
        f'<line x1="52" x2="{width}" y1="{y}" y2="{y}" stroke="#57606a"/><text x="0" y="{y + 3}">{name}'
        "</text>"
        for y, name in ((top, "server"), (bottom, "clients"))
    )
    arrows = "".join(
        _arrow(m, 52 + step * k + step // 2, top, bottom) for k, m in enumerate(messages)
    )
    legend = (
        '<p class="quiet"><span style="color:#0969da">blue</span>: broadcast, a value of the server to '
        'every client; <span style="color:#1a7f37">green</span>: sum, of one value of every client; the '
        "number is the round.</p>"
    )
    return (
        f'<svg role="img" aria-label="messages in order" viewBox="0 0 {width} 104" '
        f'width="{min(width, 730)}">{lanes}{arrows}</svg>{legend}'
    )


def _arrow(message: Message, x: int, top: int, bottom: int) -> str:
    down = message.kind == "broadcast"
    colour, tip, tail = ("#0969da", bottom, top) if down else ("#1a7f37", top, bottom)
    side = -6 if down else 6
    times = f"×{message.count}" if message.count > 1 else ""
    label = message.name if len(message.name) < 13 else message.name[:12] + "…"
    number = "" if down else f"{message.phase}"
    return (
        f'<line x1="{x}" x2="{x}" y1="{tail}" y2="{tip}" stroke="{colour}" stroke-width="1.6"/>'
        f'<path d="M{x - 3} {tip + side}L{x} {tip}L{x + 3} {tip + side}" fill="{colour}"/>'
        f'<text x="{x + 4}" y="{top + 28}">{escape(label)}</text>'
        f'<text x="{x + 4}" y="{top + 42}">{times}</text>'
        f'<text x="{x - 2}" y="{top - 8}">{number}</text>'
    )


def _origin(bundle: Bundle) -> str:
    certificate = bundle.certificate
    versions = ", ".join(f"{name} {value}" for name, value in certificate.environment.items())
    digests = "".join(
        f"<p><code>{escape(mode)} {escape(digest)}</code></p>"
        for mode, digest in certificate.digests.items()
    )
    return (
        f"<h2>Origin</h2><p>Signature: {escape(signature_of(bundle))}</p>"
        f'<p class="quiet">{escape(versions)}</p>{digests}'
        "<p>To check it: <code>pip install secfad</code>, <code>secfad verify FILE.secfad</code>, with "
        "<code>--key KEY.pub</code> for the signature. Nothing of the program runs.</p>"
    )

"""Comparison: a plan as text, 80 columns wide, with the reasons for its choice.

Payloads are rounded here; the exact ones are in `plan[mode].program.costs`.
"""

import math
import textwrap
from typing import TYPE_CHECKING

from secfad.derivatives.planning import CostModel, Option, cheapest
from secfad.programs.costs import Costs, costs

if TYPE_CHECKING:
    from secfad.derivatives.reports import Plan

_HEADINGS = (
    ("", "mode"),
    ("con-", "tacts"),
    ("", "rounds"),
    ("", "down"),
    ("", "up"),
    ("client", "state"),
    ("same", "clients"),
    ("map-", "reduce"),
    ("weighted", "cost"),
)
_UNITS = ("kB", "MB", "GB", "TB", "PB", "EB")


def comparison(plan: "Plan") -> str:
    """The modes of a plan side by side, notes on them, and why the cheapest is that."""
    rows = [*zip(*_HEADINGS), _row("value", plan.value.costs, "")]
    for option in plan.options:
        if option.program is None:
            rows.append((option.mode, *("-" for _ in _HEADINGS[1:])))
        else:
            total = _number(option.cost) if option.usable else "not usable"
            rows.append(_row(option.mode, option.program.costs, total))
    widths = [max(map(len, column)) for column in zip(*rows)]
    first = lambda row: row[0].ljust(widths[0])
    table = [
        "  ".join([first(row), *(w.rjust(n) for w, n in zip(row[1:], widths[1:]))]).rstrip()
        for row in rows
    ]
    wrt = ", ".join(f"`{name}`" for name in plan.arguments)
    title = f"derivative of {plan.name} by {wrt}; bytes per client and evaluation"
    notes = [f"{option.mode}: {option.note}" for option in plan.options if option.note]
    return "\n".join(
        [*_wrapped(title), *table, *(w for n in notes for w in _wrapped(n)), *_why(plan)]
    )


def _row(name: str, cost: Costs, total: str) -> tuple[str, ...]:
    sizes = (cost.down_bytes, cost.up_bytes, cost.state_bytes)
    again = cost.readdressed
    counts = ("open" if math.isinf(n) else f"{int(n):,}" for n in (cost.contacts, cost.rounds))
    return (
        name,
        *counts,
        *map(_size, sizes),
        "yes" if again else "no",
        # Several contacts with fresh clients each are steps of map and reduce.
        "no" if again else "yes",
        total,
    )


def _why(plan: "Plan") -> list[str]:
    """The choice, what the others would cost on top and for what, and the weights."""
    if not any(option.usable for option in plan.options):
        return ["no mode can be used"]
    best = cheapest(plan.options, plan.name)
    terms = _terms(best, plan.model)
    lines = [f"cheapest: {best.mode}"]
    for option in plan.options:
        if option is best or not option.usable:
            continue
        other = _terms(option, plan.model)
        changes = {name: other[name] - terms[name] for name in terms if other[name] != terms[name]}
        parts = [f"{name} {_number(change, '+')}" for name, change in changes.items()]
        more = (
            f"{_number(option.cost - best.cost, '+')} ({', '.join(parts)})" if parts else "the same"
        )
        lines += _wrapped(f"  {option.mode}: {more}")
    open_ended = any(o.program and math.isinf(o.program.costs.contacts) for o in plan.options)
    return lines + _wrapped(_weights(plan.model, open_ended))


def _terms(option: Option, model: CostModel) -> dict[str, float]:
    assert option.program is not None
    return model.terms(costs(option.program.schedule, model.iterations))


def _weights(model: CostModel, open_ended: bool) -> str:
    weights = {
        "contact": model.contact,
        "same clients": model.state,
        "byte up": model.up_byte,
        "byte down": model.down_byte,
        "byte of state": model.state_byte,
        "released number": model.released_number,
    }
    listed = ", ".join(f"{name} {_number(w)}" for name, w in weights.items() if w)
    loops = f"; a while loop counts as {_number(model.iterations)} iterations"
    return f"weights: {listed or 'none'}{loops if open_ended else ''}"


def _number(value: float, sign: str = "") -> str:
    small = abs(value) < 1e7
    whole = value == int(value) if small else False
    return f"{value:{sign},.0f}" if whole else f"{value:{sign},.4g}"


def _size(number: float) -> str:
    """A number of bytes: exact if it is short, else with three digits."""
    if math.isinf(number):
        return "open"
    if number < 10_000:
        return f"{int(number):,} B"
    power = min(int(math.log10(number) / 3), len(_UNITS))
    value = number / 1000.0**power
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {_UNITS[power - 1]}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 80, subsequent_indent="    ", break_on_hyphens=False)

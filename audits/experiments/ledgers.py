"""Ledgers, for people: what was spent on what, and what a schedule would cost.

Source: docs/ledger-slots.md.
"""

from collections.abc import Sequence

from rich.table import Table

import privacy
from privacy.errors import InvalidEvent
from privacy.slots import TOTAL, Plan


def overview(ledger: privacy.Ledger) -> Table:
    """Budgets, both views of what was spent, and the slots that are left, by purpose."""
    charter = ledger.charter
    table = Table(
        title=f"ledger {ledger.id[:12]}: {charter.population} clients, {charter.relation}",
        title_justify="left",
        caption=f"head {ledger.head}",
    )
    for name in ("purpose", "budget", "delta", "spent: released", "spent: server", "slots left"):
        table.add_column(name, justify="left" if name == "purpose" else "right")
    released, server = ledger.spent("released"), ledger.spent("server")
    for scope in (*charter.names, TOTAL):
        budget = charter.budget_of(scope)
        left = "" if scope == TOTAL else _slots(ledger.remaining(scope).slots)
        table.add_row(
            scope,
            f"{budget.epsilon:g}",
            f"{budget.delta:g}",
            f"{released[scope]:.4f}",
            f"{server[scope]:.4f}",
            left,
        )
    return table


def _slots(slots: Sequence[privacy.Slot]) -> str:
    return "\n".join(
        f"{s.count} x (q <= {s.sampling_rate:g}, z >= {s.noise_multiplier:g})" for s in slots
    )


def quote(plan: Plan) -> Table:
    """A plan's epsilons, by purpose and in both views."""
    table = Table()
    for name in ("purpose", "epsilon, released view", "epsilon, server view"):
        table.add_column(name, justify="left" if name == "purpose" else "right")
    for scope in plan.released:
        table.add_row(scope, f"{plan.released[scope]:.4f}", f"{plan.server[scope]:.4f}")
    return table


def parse_slot(text: str) -> privacy.Slot:
    """Reads "training,0.3,2.0,80": purpose, sampling rate, noise multiplier, count.

    Raises:
      InvalidEvent: It is not that.
    """
    parts = text.split(",")
    try:
        purpose, rate, multiplier, count = parts
        return privacy.Slot(purpose, float(rate), float(multiplier), int(count))
    except ValueError as error:
        raise InvalidEvent(
            f"Expected a slot as PURPOSE,RATE,NOISE_MULTIPLIER,COUNT, got {text!r} ({error}). "
            "Write for example training,0.3,2.0,80."
        ) from None

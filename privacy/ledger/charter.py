"""Charter: the terms that a ledger fixes at its genesis.

The terms are the relation, the population, the budgets and their enforcement. Under "pld" the
global budget is spent through slots. Purposes named in `unplanned` run on filters instead; their
whole budgets are set aside from the global one, because (epsilon, delta) pairs that are fixed in
advance add. Under a filter, one rule holds for every purpose and for the total.

>>> charter = make_charter(Budget(4, 1e-5), population=100, accountant="gdp")
>>> charter.rules
{'total': Filter(kind='gdp', order=0.0)}

Sources: docs/ledger-slots.md, sections 2 and 3; Dwork & Roth (2014), theorem 3.16.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from privacy.accounting.filters import Filter, best_order
from privacy.accounting.slots import TOTAL, Slot, check_name, expect_all, slot_terms
from privacy.accounting.terms import Terms
from privacy.budgets import Budget, expect_budget, positive_count
from privacy.checking import expect_mapping
from privacy.errors import BudgetExceeded, InvalidEvent
from privacy.ledger.faults import unreadable
from privacy.ledger.records import FORMAT, Record
from privacy.ledger.store import Store
from privacy.mechanisms.mechanisms import PURPOSES
from privacy.relations import Relation


@dataclass(frozen=True)
class Charter:
    """The terms of a ledger.

    Attributes:
      budget: The global budget.
      purposes: Budgets of single purposes; if empty, the three of `PURPOSES` share the global one.
      accountant: "pld", or the filter of the whole ledger.
      rules: The filter of each scope that has one; a scope is a purpose or "total".
    """

    budget: Budget
    purposes: Mapping[str, Budget]
    relation: Relation
    population: int
    accountant: str
    rules: Mapping[str, Filter] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The charter as JSON, for the genesis record."""
        filters = {
            scope: {"rule": str(rule), "capacity": rule.capacity(self.budget_of(scope))}
            for scope, rule in self.rules.items()
        }
        return {
            "unit": "client",
            "budget": asdict(self.budget),
            "purposes": {name: asdict(budget) for name, budget in self.purposes.items()},
            "relation": str(self.relation),
            "population": self.population,
            "accountant": self.accountant,
            "filters": filters,
        }

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> "Charter":
        """Reads the result of `record`."""
        return cls(
            Budget(**body["budget"]),
            {name: Budget(**budget) for name, budget in body["purposes"].items()},
            Relation.parse(body["relation"]),
            body["population"],
            body["accountant"],
            {scope: Filter.parse(entry["rule"]) for scope, entry in body["filters"].items()},
        )

    @property
    def names(self) -> tuple[str, ...]:
        """All purposes."""
        return tuple(self.purposes) or PURPOSES

    def budget_of(self, scope: str) -> Budget:
        """The budget of a purpose, or the global one."""
        return self.purposes.get(scope, self.budget)

    def planned_budget(self, scope: str) -> Budget:
        """The budget of slots; for "total", the budget minus the budgets set aside for filters."""
        if scope in self.purposes:
            return self.purposes[scope]
        aside = [self.purposes[name] for name in self.rules if name != TOTAL]
        epsilon = self.budget.epsilon - sum(part.epsilon for part in aside)
        delta = self.budget.delta - sum(part.delta for part in aside)
        if epsilon <= 0 or delta <= 0:
            raise BudgetExceeded(
                f"Expected unplanned purposes whose budgets sum below {self.budget}; they leave"
                f" epsilon {epsilon:g} and delta {delta:g}. Give them smaller budgets.",
                purpose=None,
                needed=f"{len(aside)} budgets set aside",
                left=f"epsilon {epsilon:g}, delta {delta:g}",
            )
        return Budget(epsilon, delta)

    def check_purpose(self, purpose: str) -> None:
        """Raises `InvalidEvent` for a purpose this ledger does not have."""
        if purpose not in self.names:
            raise InvalidEvent(
                f"Expected a purpose among {self.names}, got {purpose!r}."
                " Purposes are fixed when the ledger is created."
            )

    def costs(self, purpose: str, terms: Terms) -> dict[str, int]:
        """The costs of terms in each filter of a purpose; may be empty."""
        scopes = [scope for scope in (purpose, TOTAL) if scope in self.rules]
        return {scope: self.rules[scope].cost(terms, self.relation) for scope in scopes}


def make_charter(
    budget: Budget,
    *,
    population: int,
    purposes: Mapping[str, Budget] | None = None,
    relation: str | Relation = Relation.ADD_OR_REMOVE_ONE,
    accountant: str = "pld",
    unplanned: Mapping[str, str] | None = None,
    slots: Sequence[Slot] = (),
) -> Charter:
    """Checks the terms of a new ledger; see `Ledger.create` for the arguments."""
    relation = Relation.parse(relation)
    expect_budget(budget, "budget")
    advice = "Pass {'training': privacy.Budget(epsilon, delta), ...}."
    expected = "a mapping from purposes to budgets"
    expect_mapping(purposes or {}, Budget, "purposes", expected, advice, InvalidEvent)
    advice = "Pass {'evaluation': 'rdp@8'}."
    expected = "a mapping from purposes to filters"
    expect_mapping(unplanned or {}, str, "unplanned", expected, advice, InvalidEvent)
    expect_all(slots or (), Slot, "slots", "Pass [privacy.Slot(...)] or [query.slot(...)].")
    purposes = dict(purposes or {})
    for name in purposes:
        if check_name(name, "a purpose") == TOTAL:
            raise InvalidEvent(f"Expected purposes other than {TOTAL!r}, which names the sum.")
    rules = {name: Filter.parse(rule) for name, rule in (unplanned or {}).items()}
    if missing := sorted(set(rules) - set(purposes)):
        raise InvalidEvent(f"Expected a budget in purposes for the unplanned {missing}, got none.")
    if accountant != "pld":
        if rules:
            raise InvalidEvent(f"Expected unplanned only with 'pld', got it with {accountant!r}.")
        rule = Filter.parse(_with_order(accountant, budget, relation, slots))
        accountant, rules = str(rule), dict.fromkeys((*purposes, TOTAL), rule)
    population = positive_count(population, "a population")
    charter = Charter(budget, purposes, relation, population, accountant, rules)
    if accountant == "pld":
        charter.planned_budget(TOTAL)
    return charter


def read_genesis(store: Store, genesis: Record) -> tuple[str, Charter]:
    """A ledger's id and charter, from its first record.

    Raises:
      LedgerCorrupt: The record is not of this format.
    """
    try:
        body = genesis.body
        if body["format"] != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        return check_name(body["ledger_id"], "a ledger's id"), Charter.read(body)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise unreadable(store.path, f"an invalid genesis record ({error})") from error


def _with_order(accountant: str, budget: Budget, relation: Relation, slots: Sequence[Slot]) -> str:
    if accountant != "rdp":
        return accountant
    if not slots:
        raise InvalidEvent(
            "Expected slots to choose the Renyi order from, got none. Pass slots, or the order"
            " itself, as in accountant='rdp@8'."
        )
    return f"rdp@{best_order([(slot_terms(slots), budget)], relation)[0]}"

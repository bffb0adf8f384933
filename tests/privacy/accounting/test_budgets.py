import math

import pytest

from privacy.budgets import Budget
from privacy.errors import InvalidEvent
from privacy.relations import Relation

WRONG = [0, -1.0, math.nan, math.inf, True, "1", None, 10**400]


@pytest.mark.parametrize("value", WRONG)
def test_epsilon_is_a_positive_finite_number(value):
    with pytest.raises(InvalidEvent, match="epsilon"):
        Budget(value, 1e-5)


@pytest.mark.parametrize("value", [*WRONG, 1, 1.5])
def test_delta_lies_strictly_between_zero_and_one(value):
    with pytest.raises(InvalidEvent, match="delta"):
        Budget(1.0, value)


def test_equal_budgets_are_equal_whatever_number_type_made_them():
    assert Budget(1, 1e-5) == Budget(1.0, 1e-5)
    assert hash(Budget(1, 1e-5)) == hash(Budget(1.0, 1e-5))


def test_a_budget_cannot_be_changed():
    with pytest.raises(AttributeError):
        Budget(1.0, 1e-5).epsilon = 9.0


@pytest.mark.parametrize("name", list(Relation))
def test_relations_are_read_by_name(name):
    assert Relation.parse(str(name)) is name


@pytest.mark.parametrize("name", ["add", "", None, 1, "replace_one"])
def test_unknown_relations_are_refused(name):
    with pytest.raises(InvalidEvent, match="ADD_OR_REMOVE_ONE"):
        Relation.parse(name)


def test_a_replaced_client_moves_a_sum_twice_as_far():
    factors = {relation: relation.sensitivity_factor for relation in Relation}
    assert factors == {
        Relation.ADD_OR_REMOVE_ONE: 1,
        Relation.REPLACE_SPECIAL: 1,
        Relation.REPLACE_ONE: 2,
    }

"""Declared placements of outputs, relations and sensitivities are compared with the program."""

import jax.numpy as jnp
import pytest

import audits
import secfad as fad

W = audits.Arg("w", (3,), "float32", "server")
V = audits.Arg("v", (3,), "float32", "clients")
STATE = audits.Arg("s", (3,), "float32", "client_state")
X = audits.Arg("x", (6, 3), "float32", "clients")


def rules(fn, args, **options):
    report = audits.check(fn, args, **options)
    return report.kind, {f.rule for f in report.findings}


def test_a_server_value_returned_as_a_clients_is_an_implicit_broadcast():
    program = lambda w, v: w + fad.sum(v)
    assert rules(program, [W, V], outputs=["server"]) == ("accept", set())
    assert rules(program, [W, V], outputs=["clients"]) == ("reject", {"FAD102"})


def test_a_broadcast_value_may_be_returned_as_a_clients():
    program = lambda w, v: fad.broadcast(w + fad.sum(v))
    kind, found = rules(program, [W, V], outputs=["clients"])
    assert kind != "reject"
    assert "FAD102" not in found


def test_a_client_value_returned_as_the_servers_leaks():
    program = lambda v, s: (fad.sum(v), s + v)
    kind, _ = rules(program, [V, STATE], outputs=["server", "client_state"])
    assert kind != "reject"
    kind, found = rules(program, [V, STATE], outputs=["server", "server"])
    assert (kind, "FAD101" in found) == ("reject", True)


def test_stacked_outputs_are_compared_too():
    program = lambda x: (jnp.sum(x, axis=0), x)
    kind, found = rules(program, [X], style="stacked", outputs=["server", "clients"])
    assert kind != "reject"
    assert "FAD605" not in found
    kind, found = rules(program, [X], style="stacked", outputs=["server", "server"])
    assert (kind, found) == ("reject", {"FAD101"})


@pytest.mark.parametrize("outputs", [["server", "server"], ["nobody"], []])
def test_declarations_that_do_not_fit_are_refused(outputs):
    with pytest.raises(ValueError, match="placement"):
        audits.check(lambda v: fad.sum(v), [V], outputs=outputs)


def clipped(v):
    return fad.sum(fad.clip(v, 1.0))


def bounded(**options):
    return rules(clipped, [V], profile="secagg+dp", **options)


def test_a_sensitivity_of_adding_and_removing_is_no_sensitivity_of_replacing():
    assert "FAD412" not in bounded(neighbouring="add_remove", sensitivity=[1.0])[1]
    kind, found = bounded(neighbouring="replace_one", sensitivity=[1.0])
    assert (kind, "FAD412" in found) == ("reject", True)
    assert bounded(neighbouring="replace_one", sensitivity=[2.0])[0] != "reject"
    assert bounded(neighbouring="replace_special", sensitivity=[1.0])[0] != "reject"


def test_a_sensitivity_below_the_bound_is_refused():
    for relation in (None, "add_remove", "replace_one"):
        kind, found = bounded(neighbouring=relation, sensitivity=[0.5])
        assert (kind, "FAD406" in found) == ("reject", True)


def test_a_sensitivity_of_an_unbounded_sum_does_not_bound_it():
    kind, found = rules(lambda v: fad.sum(v), [V], profile="secagg+dp", sensitivity=[1.0])
    assert (kind, "FAD401" in found) == ("reject", True)


def test_unknown_relations_and_numbers_of_sensitivities_are_refused():
    with pytest.raises(ValueError, match="relation"):
        bounded(neighbouring="other")
    with pytest.raises(ValueError, match="sensitivity"):
        bounded(sensitivity=[1.0, 1.0])

"""Checks the arguments of `run` and `train` before anything is sent, charged or written.

Source: `privacy.checking`, for the form of the errors.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from privacy.arrays import as_array
from privacy.checking import (
    expect,
    expect_choice,
    expect_count,
    expect_function,
    expect_mapping,
    expect_names,
    expect_path,
    refusal,
    shown,
)
from privacy.errors import MechanismError, RunRefused
from privacy.execution.cohorts import Cohort, expect_sampling
from privacy.execution.queries import Query
from privacy.execution.releases import ReleaseJournal
from privacy.ledger.ledger import expect_ledger
from privacy.mechanisms.privatization import PrivateProgram
from secfad import SERVER, Program

FIDELITIES = ("protocol", "ideal")


def check_run(
    *,
    private_program: Any,
    args: Any,
    ledger: Any,
    cohort: Any,
    run_id: Any,
    round: Any,
    journal: Any,
    fidelity: Any,
    faults: Any,
    acknowledge: Any,
    trusted_key: Any,
    keep: Any,
) -> None:
    """Refuses invalid arguments of `run`.

    Raises:
      RunRefused: An argument has another type.
    """
    advice = "Call privacy.privatize(computation, *specs, mechanism=...)."
    expect(private_program, PrivateProgram, "private_program", "a private program", advice)
    advice = "Pass the computation's arguments in order, as a tuple."
    expect(args, (tuple, list), "args", "a tuple", advice)
    advice = "Draw one: sampling.draw(), for example privacy.FullParticipation(population).draw()."
    expect(cohort, Cohort, "cohort", "a cohort", advice)
    expect_ledger(ledger, RunRefused)
    check_run_id(run_id)
    expect_count(round, "round", "Number the evaluations of a run from 0 on.")
    if journal is not None:
        advice = "Call privacy.ReleaseJournal(folder)."
        expect(journal, ReleaseJournal, "journal", "a journal of releases", advice)
    expect_choice(fidelity, FIDELITIES, "fidelity")
    check_faults(faults)
    advice = "Pass rule ids, as ['FAD306']."
    expect_names(acknowledge, "acknowledge", advice)
    if trusted_key is not None:
        advice = "Call privacy.certificates.keys.read_public_key(file)."
        expect(trusted_key, bytes, "trusted_key", "the bytes of a public key", advice)
    expect_function(keep, "keep", "It takes the new result.")


def check_training(
    *,
    update: Any,
    state: Any,
    queries: Any,
    clients: Any,
    sampling: Any,
    ledger: Any,
    rounds: Any,
    run_id: Any,
    folder: Any,
    client_state: Any,
    fidelity: Any,
    faults: Any,
    measure: Any,
    observe: Any,
) -> None:
    """Refuses invalid arguments of `train`.

    Raises:
      RunRefused: An argument has another type, or cohorts come from another population than the
        ledger's.
      MechanismError: A leaf of the state is not an array of numbers.
    """
    expect_function(update, "update", "It takes the state and `ask`, and returns the next state.")
    check_state(state)
    check_queries(queries)
    advice = "It takes the indices of a cohort's members, as `lambda members: {'x': x[members]}`."
    expect_function(clients, "clients", advice)
    expect_sampling(sampling)
    expect_ledger(ledger, RunRefused)
    if sampling.population != ledger.charter.population:
        raise RunRefused(
            f"Expected sampling of the ledger's population of {ledger.charter.population}, got one of "
            f"{sampling.population}. A budget speaks of one population."
        )
    expect_count(rounds, "rounds", "It counts the rounds of earlier calls too.")
    check_run_id(run_id)
    expect_path(folder, "folder", "Name a folder for the files of this run.")
    if client_state is not None and not isinstance(client_state, Mapping):
        advice = "Pass {name of a client argument: one row for each member of the population}."
        raise refusal(client_state, "client_state", "a mapping", advice)
    expect_choice(fidelity, FIDELITIES, "fidelity")
    check_faults(faults)
    expect_function(measure, "measure", "It takes the state and returns names with numbers.")
    expect_function(observe, "observe", "It takes the newest line of metrics.")


def check_state(state: Any) -> None:
    """Refuses a server state that a checkpoint cannot hold."""
    for leaf in jax.tree.leaves(state):
        as_array(leaf)


def check_queries(queries: Any) -> None:
    """Refuses a value that is not a mapping from names to queries."""
    if isinstance(queries, Mapping):
        programs = [n for n, one in queries.items() if isinstance(one, PrivateProgram)]
        if programs:
            raise RunRefused(
                f"Expected queries[{programs[0]!r}] as a privacy.Query, got a private program without its "
                "certificate. Call privacy.Query(program, audits.certify(program))."
            )
    advice = (
        "Call Algorithm.queries(mechanisms, audits.certify), or pass {name: privacy.Query(...)}."
    )
    expect_mapping(queries, Query, "queries", "a mapping from names to queries", advice)


def check_run_id(run_id: Any) -> None:
    """Refuses a value that is not a name of a run."""
    if not isinstance(run_id, str) or not run_id:
        raise refusal(run_id, "run_id", "a name", "Name the run in the ledger by a string.")


def check_faults(faults: Any) -> None:
    """Refuses a value that does not return faults."""
    advice = "It takes an upload's number, as `lambda upload: [secagg.Drop(0, 'mask')]`."
    expect_function(faults, "faults", advice)


def check_held(held: Any, name: str) -> dict[str, Any]:
    """Returns the result of `clients` if it is a mapping from names to client arguments."""
    if not isinstance(held, Mapping):
        raise refusal(
            held,
            f"what `clients` returns for {name!r}",
            "a mapping from client arguments to stacked values",
            "For example {'x': x[members]}.",
        )
    return dict(held)


def check_next_state(new: Any, old: Any) -> None:
    """Refuses a next state from which a run could not resume.

    Raises:
      MechanismError: It has another structure or other shapes than the previous state. The round
        does not count; its releases are in the journal and are not charged again.
    """
    try:
        check_state(new)
        found = (jax.tree.structure(new), [np.shape(leaf) for leaf in jax.tree.leaves(new)])
        expected = (jax.tree.structure(old), [np.shape(leaf) for leaf in jax.tree.leaves(old)])
    except MechanismError as error:
        raise MechanismError(f"Expected `update` to return a state of arrays: {error}") from error
    if found != expected:
        came = shown(new) if found[0] != expected[0] else f"shapes {found[1]}"
        raise MechanismError(
            f"Expected `update` to return a state like the one it was given, {expected[0]} with shapes "
            f"{expected[1]}, got {came}. Return every part of the state, changed or not. The round does "
            "not count, and is repeated without a further charge."
        )


def check_stacked(program: Program, args: Any, clients: int) -> str:
    """A hint for client arguments with wrong shapes: whether the specs had an axis of clients."""
    leaves = jax.tree.leaves(tuple(args))
    for leaf, aval, place in zip(leaves, program.jaxpr.in_avals, program.in_placements):
        shape = np.shape(leaf)
        like_a_stack = shape[:1] == (clients,) and len(shape) == len(aval.shape)
        if place is not SERVER and like_a_stack and shape[1:] == aval.shape[1:]:
            return (
                " The program was traced for clients that hold a stack each. Give `privatize`, or "
                "`one_client`, the shapes of one client: without the axis of clients."
            )
        if place is not SERVER and shape[:1] != (clients,):
            return f" Give what the {clients} members of the cohort hold, stacked in their order."
    return ""

"""Client state: values that clients keep between rounds, in a simulation.

A computation may leave results at its clients: control variates, personal layers, the state of
their optimizers. `Query.keep` names the client argument for each of them, and a run holds one row
of it for every member of the population. The rows of a cohort are arguments of its next questions,
and the new client results replace them. No part of them is released.

    rows of the cohort -> question -> what stays at the clients -> pending -> the round counts -> rows

A client keeps its results of a question if its contribution was counted and the round counts. A
client that dropped out keeps its old rows. Later questions of a round see the results of earlier
ones.

>>> state = ClientState({"own": np.zeros((4, 2))}, population=4)
>>> state.hold({"own": np.ones((1, 2))}, np.array([2]))
>>> state.rows("own", np.array([1, 2])).tolist()
[[0.0, 0.0], [1.0, 1.0]]
>>> state.drop(); state.rows("own", np.array([2])).tolist()
[[0.0, 0.0]]

Sources: Karimireddy et al. (2020), Algorithm 1; docs/privacy-model.md, "Client state".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from privacy.arrays import as_array
from privacy.errors import RunRefused
from privacy.execution.cohorts import Sampling
from privacy.execution.queries import Query
from privacy.execution.results import Result
from privacy.training.client_files import Kept
from secfad import CLIENTS
from secfad.inner import canonical_dtype

Tree = Any


class ClientState:
    """One row of every kept tree for each member of a population.

    Args:
      initial: Client argument to a tree whose leaves have a leading axis of the population; copied.
      population: Number of clients.

    Raises:
      RunRefused: A leaf has another leading axis or is not an array of numbers.
    """

    def __init__(self, initial: Mapping[str, Tree], population: int):
        self._held = {
            name: jax.tree.map(lambda leaf, n=name: _population_leaf(leaf, n, population), tree)
            for name, tree in initial.items()
        }
        self.population = population
        self._pending: list[tuple[np.ndarray, Mapping[str, Tree]]] = []

    def __repr__(self) -> str:
        return f"<ClientState of {', '.join(self._held) or 'nothing'}>"

    @property
    def names(self) -> tuple[str, ...]:
        """The client arguments that are kept."""
        return tuple(self._held)

    @property
    def whole(self) -> dict[str, Tree]:
        """The rows of all clients after the last round that counted."""
        return self._held

    def rows(self, name: str, members: np.ndarray) -> Tree:
        """The rows of these clients for one argument, including results of this round's questions."""
        found = jax.tree.map(lambda leaf: leaf[members], self._held[name])
        for holders, held in self._pending:
            if name in held:
                _, mine, theirs = np.intersect1d(members, holders, return_indices=True)
                _replace(found, mine, jax.tree.map(lambda leaf, i=theirs: leaf[i], held[name]))
        return found

    def hold(self, rows: Mapping[str, Tree], members: np.ndarray) -> None:
        """Holds the results of these clients of a question of this round."""
        self._pending.append((np.asarray(members), rows))

    def end_round(self) -> None:
        """Counts the round: the results of its questions become the rows."""
        for members, rows in self._pending:
            for name, tree in rows.items():
                _replace(self._held[name], members, tree)
        self._pending.clear()

    def drop(self) -> None:
        """Discards the results of the round."""
        self._pending.clear()


def _replace(tree: Tree, positions: np.ndarray, rows: Tree) -> None:
    for leaf, new in zip(jax.tree.leaves(tree), jax.tree.leaves(rows), strict=True):
        leaf[positions] = np.asarray(new)


def _population_leaf(leaf: Any, name: str, population: int) -> np.ndarray:
    array = as_array(leaf)
    if array.shape[:1] != (population,):
        raise RunRefused(
            f"Expected client_state[{name!r}] with a leading axis of the population of "
            f"{population}, got shape {array.shape}. Stack the initial value of every client, for "
            f"example np.zeros(({population}, ...))."
        )
    # JAX computes in the canonical dtype; kept rows must be stored in their original dtype.
    return np.array(array, canonical_dtype(array))


@dataclass(frozen=True)
class _Leaf:
    """Shape, dtype and place of one number array of a result."""

    shape: tuple[int, ...]
    dtype: Any
    place: Any


def kept_parts(query: Query, values: Sequence[Any]) -> dict[str, Tree]:
    """Client argument to the kept part of a flat result.

    Raises:
      RunRefused: `keep` is not a tree prefix of the result, or has a name twice.
    """
    program = query.program.program
    result = jax.tree.unflatten(program.out_tree, values)
    found: dict[str, Tree] = {}

    def part(name: Any, tree: Tree) -> None:
        if name is None:
            return
        if not isinstance(name, str) or name in found:
            raise RunRefused(
                f"Expected names of client arguments in keep of `{program.name}`, each once, got "
                f"{name!r}. {_HOW}"
            )
        found[name] = tree

    try:
        jax.tree.map(part, query.keep, result, is_leaf=lambda x: x is None)
    except (ValueError, TypeError) as error:
        raise RunRefused(
            f"Expected keep of `{program.name}` as a tree prefix of its result {program.out_tree}, got "
            f"{query.keep!r}. {_HOW}"
        ) from error
    return found


def kept_names(query: Query) -> tuple[str, ...]:
    """The client arguments that a query keeps."""
    return tuple(kept_parts(query, _result(query)))


def kept_by(query: Query, result: Result, members: np.ndarray) -> Kept:
    """The new results of the clients whose contributions counted."""
    leaves = query.program.program.out_tree.flatten_up_to(result.at_clients)
    counted = slice(None) if result.survivors is None else np.sort(np.array(result.survivors, int))
    rows = jax.tree.map(lambda leaf: np.asarray(leaf)[counted], kept_parts(query, leaves))
    return Kept(result.seq, result.digest, members[counted], rows)


_HOW = (
    "keep has the shape of the result, like out_axes of jax.vmap: the name of a client argument where "
    'clients keep what they are left with, and None elsewhere, as in (None, "own").'
)


def check_kept(queries: Mapping[str, Query], state: ClientState, sampling: Sampling) -> None:
    """Refuses a run that would lose client state, or that has no price for it.

    Raises:
      RunRefused: A query has a client result that nothing keeps, or keeps it under a name or in a
        form that `client_state` does not have; nothing was sent or charged.
    """
    if state.names and sampling.kind != "poisson" and sampling.rate < 1:
        raise RunRefused(
            f"Expected Poisson sampling or full participation with client_state, got "
            f"{type(sampling).__name__}. Who took part in a draw of fixed size shows in what other "
            "clients keep, and later rounds would tell; use privacy.PoissonSampling."
        )
    used = {name for query in queries.values() for name in _names(query)}
    for name in state.names:
        if name not in used:
            raise RunRefused(
                f"Expected client_state for what the queries read or keep ({', '.join(sorted(used))}),"
                f" got {name!r}. Remove it, or name it in keep of a query."
            )
    for name, query in queries.items():
        _check_query(name, query, state)


def _names(query: Query) -> set[str]:
    return {*held_by_clients(query), *kept_names(query)}


def _result(query: Query) -> list[_Leaf]:
    program = query.program.program
    avals = program.jaxpr.out_avals
    return [_Leaf(a.shape, a.dtype, place) for a, place in zip(avals, program.out_placements)]


def _check_query(name: str, query: Query, state: ClientState) -> None:
    leaves = _result(query)
    kept = kept_parts(query, leaves)
    keeping = {id(leaf) for tree in kept.values() for leaf in jax.tree.leaves(tree)}
    tree = jax.tree.unflatten(query.program.program.out_tree, leaves)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        where = f"result{jax.tree_util.keystr(path)}"
        if leaf.place is CLIENTS and id(leaf) not in keeping:
            raise RunRefused(
                f"Expected every result that stays at the clients to be kept, got {where} of query "
                f"{name!r}, which nothing takes. Name a client argument for it, "
                f'Query(..., keep=...), and pass client_state={{"name": one row per member of the '
                f"population}} to train; or leave it out of the computation's result. {_HOW}"
            )
        if leaf.place is not CLIENTS and id(leaf) in keeping:
            raise RunRefused(
                f"Expected keep of query {name!r} to name what stays at the clients, got {where}, "
                f"which the server has. Put None there. {_HOW}"
            )
    for argument, part in kept.items():
        _check_form(f"what query {name!r} keeps as {argument!r}", part, argument, state)
    for argument, part in held_by_clients(query).items():
        if argument in state.names:
            _check_form(f"the argument {argument!r} of query {name!r}", part, argument, state)


def _check_form(what: str, part: Tree, argument: str, state: ClientState) -> None:
    """Shapes, dtypes and structure of one client's row."""
    if argument not in state.names:
        raise RunRefused(
            f"Expected client_state for {what}, got one for ({', '.join(state.names)}). Pass "
            f"client_state={{{argument!r}: its initial value for every client, stacked}} to train."
        )
    whole = state.whole[argument]
    expected = (jax.tree.structure(part), [(a.shape, a.dtype) for a in jax.tree.leaves(part)])
    rows = [(leaf.shape[1:], leaf.dtype) for leaf in jax.tree.leaves(whole)]
    if expected != (jax.tree.structure(whole), rows):
        raise RunRefused(
            f"Expected client_state[{argument!r}] like {what}: {_described(expected)} of each client, got "
            f"{_described((jax.tree.structure(whole), rows))}. Give every client such a row."
        )


def _described(form: tuple[Any, Sequence[tuple[tuple[int, ...], Any]]]) -> str:
    leaves = ", ".join(f"{np.dtype(dtype).name}{list(shape)}" for shape, dtype in form[1])
    return f"{form[0]} with ({leaves})"


def held_by_clients(query: Query) -> dict[str, Tree]:
    """The client arguments, with the shape of each at one client."""
    program = query.program.program
    avals = [
        _Leaf(a.shape, a.dtype, p) for a, p in zip(program.jaxpr.in_avals, program.in_placements)
    ]
    arguments = jax.tree.unflatten(program.in_tree, avals)
    named = zip(program.argument_names, arguments)
    return {
        name: tree
        for name, tree in named
        if any(leaf.place is CLIENTS for leaf in jax.tree.leaves(tree))
    }

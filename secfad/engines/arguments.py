"""Arguments of a run, checked against the program before anything happens."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from secfad.computations import Computation
from secfad.errors import ArgumentError, CohortError
from secfad.placements import CLIENTS
from secfad.programs.programs import Program
from secfad.programs.tracing import as_struct, canonical_dtype


def checked_arguments(program: Program, args: Sequence[Any]) -> list[Any]:
    """The flat arguments, if they have the structure, shapes and dtypes that were traced."""
    names = program.argument_names
    args = [*args, *(program.defaults[n] for n in names[len(args) :] if n in program.defaults)]
    if len(args) != len(names):
        raise ArgumentError(
            f"`{program.name}` expected {len(names)} arguments ({', '.join(names)}), got {len(args)}."
        )
    leaves, tree = jax.tree.flatten(tuple(args))
    if tree != program.in_tree:
        raise ArgumentError(
            f"`{program.name}` expected arguments with the structure {program.in_tree}, got {tree}. "
            "Trace the computation again for another structure."
        )
    labels = [label(path, names) for path, _ in jax.tree_util.tree_leaves_with_path(tuple(args))]
    checked = []
    for leaf, variable, place, name in zip(
        leaves, program.jaxpr.jaxpr.invars, program.in_placements, labels
    ):
        checked.append(_checked_leaf(leaf, variable.aval, place is CLIENTS, name))
    return checked


def _checked_leaf(leaf: Any, aval: Any, at_clients: bool, name: str) -> Any:
    _require_array(leaf, name)
    as_struct(leaf, name.strip("`"))
    array = leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)
    if at_clients and jnp.ndim(array) == 0:
        raise _without_clients(name)
    shape = array.shape[1:] if at_clients else array.shape
    if shape != aval.shape:
        who = "each client" if at_clients else "the server"
        advice = "Trace the computation again for other shapes, or pad the data."
        if at_clients and aval.shape == array.shape:
            advice = (
                "The program was traced with the data of all clients for one client's: trace it with "
                "what one client holds, such as x[0]."
            )
        raise ArgumentError(
            f"Expected shape {aval.shape} at {who} in {name}, got {shape}. {advice}"
        )
    dtype = canonical_dtype(array)
    if dtype != aval.dtype:
        raise ArgumentError(
            f"Expected dtype {aval.dtype} in {name}, got {dtype}. "
            f"Convert with .astype({aval.dtype}), or trace the computation again."
        )
    return jnp.asarray(array)


def _require_array(leaf: Any, name: str) -> None:
    """Raises ArgumentError for a shape where there should be numbers."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        raise ArgumentError(
            f"Expected arrays in argument {name}, got the shape {leaf.dtype}{list(leaf.shape)} alone. "
            "Programs are traced with shapes and run on arrays: pass data, such as jnp.zeros(shape)."
        )


def _without_clients(where: str) -> CohortError:
    return CohortError(
        f"Expected a leading axis of clients in {where}, got a scalar. "
        "Stack what the clients hold: shape (clients, ...)."
    )


def label(path: tuple[Any, ...], names: Sequence[str]) -> str:
    """What errors call a leaf: `batch['x']`."""
    return f"`{names[path[0].idx]}{jax.tree_util.keystr(path[1:])}`"


def cohort_size(program: Program, leaves: Sequence[Any]) -> int | None:
    """The number of clients, which all client arguments must agree on; None without any."""
    sizes: dict[str, list[int]] = {}
    example = jax.tree.unflatten(program.in_tree, leaves)
    paths = jax.tree_util.tree_leaves_with_path(example)
    for (path, leaf), place in zip(paths, program.in_placements):
        if place is CLIENTS:
            sizes.setdefault(program.argument_names[path[0].idx], []).append(leaf.shape[0])  # type: ignore[attr-defined]
    return agreed_size(program.name, sizes)


def agreed_size(name: str, sizes: Mapping[str, Sequence[int]]) -> int | None:
    """The one number of clients in `sizes`, which has those of every client argument's leaves."""
    found = {size for own in sizes.values() for size in own}
    if len(found) > 1:
        seen = (f"`{argument}` has {_listed(own)}" for argument, own in sizes.items())
        lists = [argument for argument, own in sizes.items() if len(set(own)) < len(own)]
        stack = "".join(
            f" If `{n}` is a list with an array per client, stack it: jnp.stack({n})."
            for n in lists[:1]
        )
        raise CohortError(
            f"`{name}` expected client arguments for one cohort, got different numbers of clients: "
            f"{', '.join(seen)}. Give every client argument the same leading axis.{stack}"
        )
    if found == {0}:
        raise CohortError(f"`{name}` expected at least one client, got an empty cohort.")
    return found.pop() if found else None


def _listed(sizes: Sequence[int]) -> str:
    return " and ".join(map(str, dict.fromkeys(sizes)))


def client_specs(
    computation: Computation, args: Sequence[Any]
) -> tuple[tuple, dict[str, list[int]]]:
    """What the server or one client holds of each argument, and the numbers of clients in each."""
    sizes: dict[str, list[int]] = {}
    specs = []
    for (name, placement), arg in zip(computation.placements.items(), args):

        def spec(leaf, name=name, placement=placement):
            _require_array(leaf, f"`{name}`")
            struct = as_struct(leaf, name)
            if placement is not CLIENTS:
                return struct
            if not struct.shape:
                raise _without_clients(f"argument `{name}`")
            sizes.setdefault(name, []).append(struct.shape[0])
            weak = struct.weak_type
            return jax.ShapeDtypeStruct(struct.shape[1:], struct.dtype, weak_type=weak)

        specs.append(jax.tree.map(spec, arg))
    return tuple(specs), sizes

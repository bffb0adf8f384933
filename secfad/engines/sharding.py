"""Sharding: where the values of a fused simulation lie on a mesh of devices.

Clients are split over all devices of the mesh, of one process or of several; what the server holds is
on every device. Only sums cross between devices.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from secfad import _jax
from secfad.errors import ArgumentError, CohortError
from secfad.placements import CLIENTS, Placement

OfLeaves = Callable[..., list[Any]]
Places = Sequence[Placement | None]


class Layout:
    """The layout of client and server values on a mesh."""

    def __init__(self, mesh: Mesh):
        # A mesh with explicit axes would want shardings in the types of all values inside.
        automatic = Mesh(mesh.devices, mesh.axis_names)
        self._automatic = automatic
        self.clients = NamedSharding(automatic, PartitionSpec(mesh.axis_names))
        self.server = NamedSharding(automatic, PartitionSpec())
        self.devices = mesh.size

    def at_clients(self, value: Any) -> Any:
        """A value with a leading axis of clients, split over the devices."""
        return jax.lax.with_sharding_constraint(value, self.clients)

    def _at(self, placement: Placement | None) -> NamedSharding:
        return self.clients if placement is CLIENTS else self.server

    def inside(self, fun: OfLeaves, arguments: Places, results: Places) -> OfLeaves:
        """A function of arrays with these placements, client values split over the devices."""

        def laid_out(*leaves: Any) -> list[Any]:
            split = [self.at_clients(x) if p is CLIENTS else x for x, p in zip(leaves, arguments)]
            # So that every process can read what is the server's.
            return [
                jax.lax.with_sharding_constraint(v, self._at(p))
                for v, p in zip(fun(*split), results)
            ]

        return laid_out

    def outside(self, fun: OfLeaves, arguments: Places, results: Places) -> OfLeaves:
        """A function for callers whose arrays have a sharding in their types, or whose context has.

        What is compiled is `fun`: if types changed in it, JAX would give the values that it saves for
        a derivative the types of the arguments.
        """

        def free_of_types(*leaves: Any) -> list[Any]:
            # Inside, the mesh of the context is this one; outside, types are those of the context.
            context = jax.sharding.get_abstract_mesh()
            with jax.sharding.use_abstract_mesh(self._automatic.abstract_mesh):
                made = fun(*(self._entering(x, p, context) for x, p in zip(leaves, arguments)))
            if not _is_explicit(context):
                return made
            return [self._leaving(v, self._at(p), context) for v, p in zip(made, results)]

        return free_of_types

    def _entering(self, value: Any, placement: Placement | None, context: Any) -> Any:
        """A value without a sharding in its type; a derivative moves its cotangent back."""
        typed = jax.typeof(value).sharding
        if _is_typed(value):
            before = NamedSharding(self._explicit(typed.mesh), typed.spec)
        elif _is_explicit(context):
            # Its tangents and cotangents have types.
            before = NamedSharding(self._explicit(context), PartitionSpec())
        else:
            return value
        return jax.device_put(value, self._at(placement), src=before)

    def _leaving(self, value: Any, here: NamedSharding, context: Any) -> Any:
        after = NamedSharding(self._explicit(context), here.spec)
        return jax.device_put(value, after, src=here)

    def _explicit(self, mesh: Any) -> Mesh:
        """The devices, with axes of the types of another mesh."""
        ours = self._automatic
        if (mesh.axis_names, mesh.axis_sizes) != (ours.axis_names, ours.axis_sizes):
            raise ArgumentError(
                f"Expected arrays on the mesh that simulate was given, with the axes {dict(ours.shape)}, "
                f"got one with explicit axes {dict(mesh.shape)}. Give simulate the mesh of the "
                "arrays and of jax.set_mesh."
            )
        return Mesh(ours.devices, mesh.axis_names, axis_types=mesh.axis_types)


def _is_typed(value: Any) -> bool:
    """Whether a value has a sharding in its type."""
    return _is_explicit(jax.typeof(value).sharding.mesh)


def _is_explicit(mesh: Any) -> bool:
    return AxisType.Explicit in mesh.axis_types


def require_no_types(leaves: Sequence[Any], remedy: str) -> None:
    """Raises ArgumentError for arrays whose types have a sharding, on a mesh with explicit axes."""
    for leaf in leaves:
        if hasattr(leaf, "sharding") and _is_typed(leaf):
            raise ArgumentError(
                "Expected arrays on a mesh with automatic axes, got "
                f"{leaf.dtype}{list(leaf.shape)} on one with explicit axes. {remedy}"
            )


@contextlib.contextmanager
def without_types(leaves: Sequence[Any]) -> Iterator[list[Any]]:
    """The arrays where they are, but without a sharding in their types, and a context for these."""
    typed = [
        isinstance(x, jax.Array) and not isinstance(x, _jax.Tracer) and _is_typed(x) for x in leaves
    ]
    if not any(typed):
        yield list(leaves)
        return

    def freed(leaf: Any) -> Any:
        mesh = leaf.sharding.mesh
        automatic = Mesh(mesh.devices, mesh.axis_names)
        return jax.device_put(leaf, NamedSharding(automatic, leaf.sharding.spec))

    free = [freed(x) if t else x for x, t in zip(leaves, typed)]
    found = next(x for x, t in zip(free, typed) if t).sharding.mesh
    with jax.sharding.use_abstract_mesh(found.abstract_mesh):
        yield free


def require_shards(clients: int, chunk_size: int | None, mesh: Mesh) -> None:
    """Raises unless the cohort and every chunk of it can be split evenly over the devices."""
    counts = [("number of clients", clients, "Add clients of weight 0, or use fewer devices.")]
    if chunk_size is not None and chunk_size < clients:
        counts.append(("chunk_size", chunk_size, "Choose such a one, or use fewer devices."))
    for what, count, remedy in counts:
        if count % mesh.size:
            raise CohortError(
                f"Expected a {what} that is a multiple of the {mesh.size} devices of the mesh, got "
                f"{count}. {remedy}"
            )

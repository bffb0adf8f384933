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


class Layout:
    """The layout of client and server values on a mesh."""

    def __init__(self, mesh: Mesh):
        # A mesh with explicit axes would want shardings in the types of all values inside.
        automatic = Mesh(mesh.devices, mesh.axis_names)
        self._automatic = automatic.abstract_mesh
        self.clients = NamedSharding(automatic, PartitionSpec(mesh.axis_names))
        self.server = NamedSharding(automatic, PartitionSpec())
        self.devices = mesh.size

    def at_clients(self, value: Any) -> Any:
        """A value with a leading axis of clients, split over the devices."""
        return jax.lax.with_sharding_constraint(value, self.clients)

    def _entering(self, value: Any, placement: Placement | None) -> Any:
        """An argument without a sharding in its type, client values split over the devices."""
        if _is_explicit(jax.typeof(value).sharding.mesh):
            return jax.device_put(value, self.clients if placement is CLIENTS else self.server)
        return self.at_clients(value) if placement is CLIENTS else value

    def _leaving(self, value: Any, placement: Placement | None) -> Any:
        """A result laid out by its placement, so that every process can read the server's."""
        sharding = self.clients if placement is CLIENTS else self.server
        return jax.lax.with_sharding_constraint(value, sharding)

    def around(
        self,
        fun: Callable[..., list[Any]],
        arguments: Sequence[Placement | None],
        results: Sequence[Placement | None],
    ) -> Callable[..., list[Any]]:
        """A function of arrays with these placements, its results laid out on the mesh."""

        def laid_out(*leaves: Any) -> list[Any]:
            # Inside, the mesh of the context is this one; outside, types are those of the context.
            outside = jax.sharding.get_abstract_mesh()
            with jax.sharding.use_abstract_mesh(self._automatic):
                made = fun(*map(self._entering, leaves, arguments))
                made = list(map(self._leaving, made, results))
            if not _is_explicit(outside):
                return made
            specs = ((self.clients if p is CLIENTS else self.server).spec for p in results)
            return [jax.device_put(v, NamedSharding(outside, s)) for v, s in zip(made, specs)]

        return laid_out


def _is_explicit(mesh: Any) -> bool:
    return AxisType.Explicit in mesh.axis_types


def require_no_types(leaves: Sequence[Any], remedy: str) -> None:
    """Raises ArgumentError for arrays whose types have a sharding, on a mesh with explicit axes."""
    for leaf in leaves:
        if hasattr(leaf, "sharding") and _is_explicit(jax.typeof(leaf).sharding.mesh):
            raise ArgumentError(
                "Expected arrays on a mesh with automatic axes, got "
                f"{leaf.dtype}{list(leaf.shape)} on one with explicit axes. {remedy}"
            )


@contextlib.contextmanager
def without_types(leaves: Sequence[Any]) -> Iterator[list[Any]]:
    """The arrays where they are, but without a sharding in their types, and a context for these."""
    typed = [
        isinstance(x, jax.Array)
        and not isinstance(x, _jax.Tracer)
        and _is_explicit(jax.typeof(x).sharding.mesh)
        for x in leaves
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

"""Sharding: where the values of a fused simulation lie on a mesh of devices.

Clients are split over all devices of the mesh, of one process or of several; what the server holds is
on every device. Only sums cross between devices.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from secfad import _jax
from secfad.errors import CohortError
from secfad.placements import CLIENTS, Placement

_jax.hide_file_from_tracebacks(__file__)


class Layout:
    """The layout of client and server values on a mesh."""

    def __init__(self, mesh: Mesh):
        # A mesh with explicit axes would want shardings in the types of all values inside.
        automatic = Mesh(mesh.devices, mesh.axis_names)
        self.clients = NamedSharding(automatic, PartitionSpec(mesh.axis_names))
        self.server = NamedSharding(automatic, PartitionSpec())
        self.devices = mesh.size

    def at_clients(self, value: Any) -> Any:
        """A value with a leading axis of clients, split over the devices."""
        return jax.lax.with_sharding_constraint(value, self.clients)

    def _entering(self, value: Any, placement: Placement | None) -> Any:
        """An argument without a sharding in its type, client values split over the devices."""
        if AxisType.Explicit in jax.typeof(value).sharding.mesh.axis_types:
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
            made = fun(*map(self._entering, leaves, arguments))
            return list(map(self._leaving, made, results))

        return laid_out


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

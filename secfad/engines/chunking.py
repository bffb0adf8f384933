"""Chunking: how the clients of a cohort are cut into chunks, and put together again.

On a mesh every device holds its own clients, and every chunk takes as many of each device's as of
any other's. So nothing of a client ever moves to another device. Without one, a chunk is a row of
neighbours.
"""

from typing import Any

import jax.numpy as jnp

from secfad.engines.sharding import Layout


class Chunks:
    """A cohort as chunks of one size, and a smaller one of those that are left.

    Attributes:
      clients: How many there are.
      size: How many are computed together; all of them at most.
      whole: The number of chunks of this size.
      left: How many clients are in none of them.
    """

    def __init__(self, clients: int, size: int, layout: Layout | None):
        self.clients = clients
        self.size = min(size, clients)
        self.whole, self.left = divmod(clients, self.size)
        self._layout = layout
        self._devices = 1 if layout is None else layout.devices
        # Clients of one device in one chunk, and in all chunks of the one size.
        self._part = self.size // self._devices
        self._parts = self.whole * self._part

    def placed(self, chunk: Any) -> Any:
        """Values of clients, on the devices that hold them."""
        return chunk if self._layout is None else self._layout.at_clients(chunk)

    def rows(self, stack: Any) -> Any:
        """The chunks of the one size of a stack of client values: shape `(whole, size, ...)`."""
        tail = stack.shape[1:]
        own = self._by_device(stack)[:, : self._parts]
        own = own.reshape(self._devices, self.whole, self._part, *tail)
        return jnp.moveaxis(own, 0, 1).reshape(self.whole, self.size, *tail)

    def rest(self, stack: Any) -> Any:
        """The last chunk of a stack: shape `(left, ...)`."""
        return self._by_device(stack)[:, self._parts :].reshape(self.left, *stack.shape[1:])

    def joined(self, rows: Any, *rest: Any) -> Any:
        """The stack whose chunks these are; the last one only if there is one."""
        tail = rows.shape[2:]
        own = rows.reshape(self.whole, self._devices, self._part, *tail)
        pieces = [jnp.moveaxis(own, 0, 1).reshape(self._devices, self._parts, *tail)]
        pieces += [x.reshape(self._devices, self.left // self._devices, *tail) for x in rest]
        return jnp.concatenate(pieces, axis=1).reshape(self.clients, *tail)

    def _by_device(self, stack: Any) -> Any:
        own = self.clients // self._devices
        return self.placed(stack).reshape(self._devices, own, *stack.shape[1:])

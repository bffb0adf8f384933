"""Where a value lives: at the server, or one at each client.

Placement is declared for the arguments of a computation and inferred for everything inside. A value
that depends on no argument (a literal, a captured constant) has no placement: both sides know it.

Source: Rush, Charles, Garrett, "Federated Automatic Differentiation" (JMLR 2024), section 2.
"""

import enum


class Placement(enum.Enum):
    """The two places of a federated computation."""

    SERVER = "server"
    CLIENTS = "clients"

    def __repr__(self) -> str:
        return self.name


SERVER = Placement.SERVER
CLIENTS = Placement.CLIENTS

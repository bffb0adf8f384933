"""The protocol as one table: states, messages, and what each message does to whom.

A client state is named for what has already been done. A message that the table does not list
for the present state is refused and changes nothing. The diagram in the documentation is
`diagram()`.

>>> CLIENT[ClientState.SHARES_SENT, Kind.INBOX, False]
<ClientState.MASKED_SENT: 'masked sent'>

Sources: Bonawitz et al. (2017), figure 4; docs/secagg-spec.md.
"""

import enum


class Kind(enum.IntEnum):
    """Message types, as on the wire: below 16 from a client, above from the server."""

    ADVERTISEMENT = 1
    SHARES = 2
    MASKED_INPUT = 3
    CONFIRMATION = 4
    DISCLOSURE = 5
    KEY_LIST = 17
    INBOX = 18
    SURVIVORS = 19
    CONFIRMATIONS = 20


class ClientState(enum.Enum):
    """What a client has done so far."""

    CREATED = "created"
    KEYS_ADVERTISED = "keys advertised"
    SHARES_SENT = "shares sent"
    MASKED_SENT = "masked sent"
    CONFIRMED = "confirmed"
    FINISHED = "finished"
    ABORTED = "aborted"


class Phase(enum.Enum):
    """What the server is collecting."""

    ADVERTISE = "advertise keys"
    SHARE = "share keys"
    MASK = "masked input"
    CONFIRM = "consistency"
    UNMASK = "unmask"
    FINISHED = "finished"
    ABORTED = "aborted"


CLIENT = {
    (ClientState.KEYS_ADVERTISED, Kind.KEY_LIST, False): ClientState.SHARES_SENT,
    (ClientState.KEYS_ADVERTISED, Kind.KEY_LIST, True): ClientState.SHARES_SENT,
    (ClientState.SHARES_SENT, Kind.INBOX, False): ClientState.MASKED_SENT,
    (ClientState.SHARES_SENT, Kind.INBOX, True): ClientState.MASKED_SENT,
    (ClientState.MASKED_SENT, Kind.SURVIVORS, False): ClientState.FINISHED,
    (ClientState.MASKED_SENT, Kind.SURVIVORS, True): ClientState.CONFIRMED,
    (ClientState.CONFIRMED, Kind.CONFIRMATIONS, True): ClientState.FINISHED,
}
"""(state, message received, active?) -> next state. Anything else is refused."""

SERVER = {
    (Phase.ADVERTISE, False): (Kind.ADVERTISEMENT, Phase.SHARE),
    (Phase.ADVERTISE, True): (Kind.ADVERTISEMENT, Phase.SHARE),
    (Phase.SHARE, False): (Kind.SHARES, Phase.MASK),
    (Phase.SHARE, True): (Kind.SHARES, Phase.MASK),
    (Phase.MASK, False): (Kind.MASKED_INPUT, Phase.UNMASK),
    (Phase.MASK, True): (Kind.MASKED_INPUT, Phase.CONFIRM),
    (Phase.CONFIRM, True): (Kind.CONFIRMATION, Phase.UNMASK),
    (Phase.UNMASK, False): (Kind.DISCLOSURE, Phase.FINISHED),
    (Phase.UNMASK, True): (Kind.DISCLOSURE, Phase.FINISHED),
}
"""(phase, active?) -> (message collected, next phase)."""


def phases(active: bool) -> tuple[Phase, ...]:
    """The collecting phases in order."""
    order = [Phase.ADVERTISE]
    while (order[-1], active) in SERVER:
        order.append(SERVER[order[-1], active][1])
    return tuple(order[:-1])


def diagram() -> str:
    """The client's transitions as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    created --> keys_advertised: advertise()"]
    for (state, kind, active), after in CLIENT.items():
        names = [item.value.replace(" ", "_") for item in (state, after)]
        model = "active" if active else "semi-honest"
        lines.append(f"    {names[0]} --> {names[1]}: {kind.name.lower()} ({model})")
    return "\n".join(lines)

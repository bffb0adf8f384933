"""Secure aggregation: the server learns the sum of the clients' vectors and nothing else.

Bonawitz et al. (2017) with double masking, in the semi-honest and the active model, on the
complete graph or on the k-regular ring of Bell et al. (2020), as state machines that take bytes
and give bytes. Nothing here knows about learning, JAX or privacy budgets.

>>> import numpy as np, secagg
>>> encoding = secagg.Encoding(clip=1.0, scale=2.0**16, clients=5)
>>> vectors = np.stack([encoding.encode(np.full(3, 0.25)) for _ in range(5)])
>>> outcome = secagg.simulate(vectors, secagg.Parameters(clients=5, length=3))
>>> encoding.decode(outcome.sum)
array([1.25, 1.25, 1.25])

Sources: Bonawitz et al. (2017), eprint 2017/281; Bell et al. (2020), eprint 2020/704;
docs/secagg-spec.md; docs/threat-model.md.
"""

from secagg.crypto.streams import SecureStream
from secagg.encoding import Encoding
from secagg.errors import (
    Aborted,
    BelowThreshold,
    CohortChanged,
    CohortRefused,
    EncodingError,
    LocalProtocolError,
    ParameterError,
    RemoteProtocolError,
    SecAggError,
)
from secagg.protocol.admission import CohortLedger
from secagg.protocol.client import Client
from secagg.protocol.parameters import Parameters
from secagg.protocol.server import Server
from secagg.simulation.faults import Drop
from secagg.simulation.simulation import Outcome, simulate

__all__ = [
    "Aborted",
    "BelowThreshold",
    "Client",
    "CohortChanged",
    "CohortLedger",
    "CohortRefused",
    "Drop",
    "Encoding",
    "EncodingError",
    "LocalProtocolError",
    "Outcome",
    "ParameterError",
    "Parameters",
    "RemoteProtocolError",
    "SecAggError",
    "SecureStream",
    "Server",
    "simulate",
]

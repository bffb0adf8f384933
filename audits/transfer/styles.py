"""The four ways to write a federated program, and what each one counts as a broadcast.

Native programs and SPMD programs are written for one client and have no axis of clients; stacked and
DrJAX programs are arrays with such an axis. Native and DrJAX programs have a broadcast primitive, so
that its absence is an error; the other two do not, so that an implicit broadcast is a caveat.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from audits.rules.rules import Severity


@dataclasses.dataclass(frozen=True)
class Style:
    """How a program of this style communicates.

    Attributes:
      name: Name used in `audits.check`.
      stacked: Client values carry an axis of clients.
      implicit: Severity of an implicit broadcast.
      sums_by_reduction: A `reduce_sum` over the axis of clients is the aggregator.
      client_outputs: A client value may be returned: it stays at its client.
    """

    name: str
    stacked: bool
    implicit: Severity
    sums_by_reduction: bool = False
    client_outputs: bool = False


STYLES: Mapping[str, Style] = MappingProxyType(
    {
        "native": Style("native", False, Severity.REJECT),
        "stacked": Style("stacked", True, Severity.CAVEAT, sums_by_reduction=True),
        "drjax": Style("drjax", True, Severity.REJECT),
        "spmd": Style("spmd", False, Severity.CAVEAT),
    }
)

CLIENT_AXIS_NAME = "clients"

"""The four styles of federated programs, and the form of a broadcast in each.

Native programs and SPMD programs are written for one client and have no axis of clients; stacked
and DrJAX programs are arrays with such an axis. Native and DrJAX programs have a broadcast
primitive, so an implicit broadcast is an error. The other two styles do not, so an implicit
broadcast is a caveat.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from audits.rules.rules import Severity


@dataclasses.dataclass(frozen=True)
class Style:
    """The communication of programs in this style.

    Attributes:
      name: Name used in `audits.check`.
      stacked: Client values carry an axis of clients.
      implicit: Severity of an implicit broadcast.
      sums_by_reduction: A `reduce_sum` over the axis of clients is the aggregator.
      client_outputs: A client value may be returned; it stays at its client.
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

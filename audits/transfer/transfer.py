"""The table of the rules of all families, for the interpreter.

`mutated` returns the table with one rule removed or replaced. Tests use it to show that every rule
is needed.
"""

from collections.abc import Mapping
from types import MappingProxyType

from audits.transfer import (
    collectives,
    contraction,
    control,
    elementwise,
    indexing,
    iteration,
    structure,
)
from audits.transfer.interpreter import Rule

TRANSFER: Mapping[str, Rule] = MappingProxyType(
    {
        "elementwise": elementwise.elementwise,
        "identity": elementwise.identity,
        "broadcast_in_dim": structure.broadcast_in_dim,
        "reshape": structure.reshape,
        "transpose": structure.transpose,
        "squeeze": structure.squeeze,
        "iota": structure.iota,
        "filler": structure.filler,
        "bitcast": structure.bitcast,
        "reduce_sum": collectives.reduce_sum,
        "reduce_other": structure.reduce_other,
        "ordered": structure.ordered,
        "top_k": structure.top_k,
        "sort": indexing.sort,
        "taken": indexing.taken,
        "dynamic_slice": indexing.dynamic_slice,
        "dynamic_update_slice": indexing.dynamic_update_slice,
        "pad": indexing.pad,
        "gather": indexing.gather,
        "scatter": indexing.scatter,
        "concatenate": indexing.concatenate,
        "stack": indexing.stack,
        "unstack": indexing.unstack,
        "dot_general": contraction.dot_general,
        "fft": contraction.fft,
        "linalg": contraction.linalg,
        "conv": contraction.conv,
        "window": contraction.window,
        "pool_gradient": contraction.pool_gradient,
        "random_bits": collectives.random_bits,
        "random_split": collectives.random_bits,
        "random_seed": elementwise.identity,
        "random_wrap": collectives.random_wrap,
        "random_unwrap": collectives.random_bits,
        "scan": iteration.scan,
        "while": iteration.while_,
        "cond": control.cond,
        "call": control.call,
        "custom_rule": control.custom_rule,
        "reverse_only": control.reverse_only,
        "linear_solve": control.linear_solve,
        "federated_broadcast": collectives.federated_broadcast,
        "federated_sum": collectives.federated_sum,
        "federated_clip": collectives.federated_clip,
        "drjax_broadcast": collectives.drjax_broadcast,
        "drjax_sum": collectives.drjax_sum,
        "drjax_mean": collectives.drjax_mean,
        "psum": collectives.psum,
        "extremum_collective": collectives.extremum_collective,
        "axis_index": collectives.axis_index,
        "collective": collectives.collective,
        "callback": collectives.callback,
        "kernel": collectives.kernel,
        "reference": collectives.reference,
    }
)


def mutated(family: str, rule: Rule | None) -> Mapping[str, Rule]:
    """The table with one family's rule replaced, or removed with None."""
    changed = {k: v for k, v in TRANSFER.items() if k != family}
    return MappingProxyType(changed if rule is None else changed | {family: rule})

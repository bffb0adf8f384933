"""The table of algorithms: one small example of each, with its oracle and its closed-form costs.

The law suite iterates over it. An entry also shows how a factory is called and what arguments its
computation takes.
"""

from types import MappingProxyType

from examples_of_bilevel import bilevel
from examples_of_hyperparameters import learned
from examples_of_messages import compressed, forward_only
from examples_of_scheduling import scheduled
from examples_of_training import control_variates, family

_ENTRIES = (
    *family(),
    control_variates(),
    *learned(),
    *bilevel(),
    *forward_only(),
    *compressed(),
    *scheduled(),
)
TABLE = MappingProxyType({entry.name: entry for entry in _ENTRIES})

"""The table of algorithms: one small example of each, with its oracle and its closed-form costs.

The law suite iterates over it, and it doubles as an index of usage: every entry shows how a factory
is called and what arguments its computation takes. The entries are in `secfad.algorithms.examples`.

>>> TABLE["baffle"].up
6
"""

from types import MappingProxyType

from secfad.algorithms.entries import Algorithm as Algorithm
from secfad.algorithms.examples.bilevel import bilevel
from secfad.algorithms.examples.learned import learned
from secfad.algorithms.examples.messages import compressed, forward_only
from secfad.algorithms.examples.scheduling import scheduled
from secfad.algorithms.examples.training import control_variates, family

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

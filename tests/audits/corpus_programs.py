"""Programs whose verdict is known, by theme. Each is a claim: this shape of program must be judged so.

`CASES` lists those of all modules `corpus_*`. One accepted program at least is there for every rule
that accepts, and one refusal for every refusal; `test_rules` sees to that.
"""

import corpus_bounds
import corpus_collectives
import corpus_control
import corpus_local
import corpus_mixing
import corpus_native
import corpus_noise
from corpus_cases import Case

CASES: list[Case] = [
    *corpus_local.CASES,
    *corpus_mixing.CASES,
    *corpus_native.CASES,
    *corpus_control.CASES,
    *corpus_collectives.CASES,
    *corpus_bounds.CASES,
    *corpus_noise.CASES,
]

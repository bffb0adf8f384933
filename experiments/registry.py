"""The experiments by name."""

from collections.abc import Callable
from types import MappingProxyType

from experiments.bilevel import agg_2
from experiments.forward_only import baf_1, baf_2, baf_3
from experiments.modes_agree import fad_3
from experiments.outcomes import Options, Outcome
from experiments.private_bilevel import dp_d_bilevel
from experiments.private_learning import dp_a
from experiments.private_noise import dp_n
from experiments.private_signal import dp_b, dp_e
from experiments.private_training import dp_d_training
from experiments.private_weighting import dp_c
from experiments.quadratics import agg_1
from experiments.server_learning import fad_2
from experiments.subspaces import igc_1, igc_2
from experiments.weighting import fad_1

EXPERIMENTS: MappingProxyType[str, Callable[[Options], Outcome]] = MappingProxyType(
    {
        "fad-1": fad_1,
        "fad-2": fad_2,
        "fad-3": fad_3,
        "agg-1": agg_1,
        "agg-2": agg_2,
        "baf-1": baf_1,
        "baf-2": baf_2,
        "baf-3": baf_3,
        "igc-1": igc_1,
        "igc-2": igc_2,
        "dp-a": dp_a,
        "dp-b": dp_b,
        "dp-c": dp_c,
        "dp-d-bilevel": dp_d_bilevel,
        "dp-d-training": dp_d_training,
        "dp-e": dp_e,
        "dp-n": dp_n,
    }
)

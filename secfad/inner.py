"""The inner door: what the sister packages `privacy` and `audits` may use beyond the public names.

Nothing else of secfad's rooms is imported from outside (`tests/test_architecture.py`). Unlike the names of
`secfad` itself, these may change from version to version.
"""

from secfad._jax import ClosedJaxpr as ClosedJaxpr
from secfad._jax import Jaxpr as Jaxpr
from secfad._jax import JaxprEqn as JaxprEqn
from secfad._jax import Literal as Literal
from secfad._jax import Primitive as Primitive
from secfad._jax import Var as Var
from secfad._jax import at_line as at_line
from secfad._jax import evaluate as evaluate
from secfad._jax import hide_file_from_tracebacks as hide_file_from_tracebacks
from secfad._jax import spec as spec
from secfad._jax import sub_jaxprs as sub_jaxprs
from secfad._jax import user_line as user_line
from secfad._jax_interpreters import dce as dce
from secfad.clipping import clip_p as clip_p
from secfad.collecting import no_collection as no_collection
from secfad.derivatives.modes import Mode as Mode
from secfad.engines.arguments import checked_arguments as checked_arguments
from secfad.engines.arguments import cohort_size as cohort_size
from secfad.engines.arguments import label as label
from secfad.engines.local import Aggregate as Aggregate
from secfad.engines.local import Aggregator as Aggregator
from secfad.engines.local import Upload as Upload
from secfad.engines.local import plain_sum as plain_sum
from secfad.jaxprs import equations as equations
from secfad.jaxprs.dependence import DEPENDENCE as DEPENDENCE
from secfad.jaxprs.equations import as_call as as_call
from secfad.jaxprs.evaluation import Evaluator as Evaluator
from secfad.jaxprs.evaluation import read as read
from secfad.jaxprs.inside import Inside as Inside
from secfad.jaxprs.inside import any_inside as any_inside
from secfad.jaxprs.inside import bodies as bodies
from secfad.jaxprs.iterations import without_counts as without_counts
from secfad.jaxprs.origins import is_key_generator as is_key_generator
from secfad.jaxprs.origins import is_known_dtype as is_known_dtype
from secfad.jaxprs.origins import is_registered as is_registered
from secfad.jaxprs.slices import live as live
from secfad.primitives import broadcast_p as broadcast_p
from secfad.primitives import sum_p as sum_p
from secfad.programs.costs import Costs as Costs
from secfad.programs.costs import costs as costs
from secfad.programs.cutting import schedule as schedule
from secfad.programs.inference import place as place
from secfad.programs.normalization import normalise as normalise
from secfad.programs.placed import Placed as Placed
from secfad.programs.scheduling import timetable as timetable
from secfad.programs.stages import Nested as Nested
from secfad.programs.stages import Round as Round
from secfad.programs.stages import Schedule as Schedule
from secfad.programs.tracing import as_struct as as_struct
from secfad.programs.tracing import canonical_dtype as canonical_dtype

"""Contributions that a client places at an index of its own: their entries may be one client's.

A label is *client-indexed* along an axis if a client value chose where entries stand on it: it was an
index of a write, of a window or of a table of constants, it was compared with positions (`one_hot`), it
was the key of a sort, or it chose among more than two branches. Later operations keep the mark, until the
axis is summed or nothing but a scalar per client is left. What a client draws at random from a key of its
own chooses nothing: a shuffle is no identity. Neither does an *indicator*, such as the one-hot row of a
label, once it is added to entries of the client that are everywhere, as in `softmax(z) - one_hot(y)`.

The mark says where single contributors are likely to show. Its absence does not say that none do: a
client function can place values in as many ways as there are programs, for example by `v * (k == 3)`
for every constant index.
"""

from collections.abc import Mapping

from audits.transfer.labels import POSITION, REPLICATED, Label, Place, all_drawn

_COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "eq_to", "lt_to", "le_to"})
_SUMS = frozenset({"add", "add_any", "sub"})
# Their bodies mark their results themselves, or they pass operands on.
_PASSING = frozenset({"call", "custom_rule", "identity"})
_CONTROL = frozenset({"scan", "while", "cond", "linear_solve"})


def marked(step, family: str, results: list[Label]) -> list[Label]:
    """The results of an equation, client-indexed if an operand is or if this equation makes them so."""
    if family in _PASSING:
        return results
    if family in _CONTROL:
        return [_spread(label) for label in results]
    chosen = _chooses(step, family, results)
    indicator = _indicates(step, family, chosen)
    padded = any(label.padded for label in step.inputs) or _pads(step, family)
    drawn = all_drawn(step.inputs)
    covered = step.primitive in _SUMS and _covered(step.inputs)
    made = []
    for label in results:
        axes = frozenset() if covered else _kept(step, family, label)
        if chosen:
            axes |= _chosen_axes(family, label)
        made.append(_with(label, axes, indicator, padded, drawn))
    return made


def _spread(label: Label) -> Label:
    """A result of control flow: which of its axes a client indexed is not followed, nor what it drew."""
    axes = frozenset(range(len(label.axes))) if label.slots else frozenset()
    return _with(label, axes, label.indicator, label.padded, False)


def _with(label: Label, axes: frozenset[int], indicator: bool, padded: bool, drawn: bool) -> Label:
    several = len(label.axes) - (label.client_axis is not None) > 0
    here = several and label.on_clients
    axes = axes - {label.client_axis} if here else frozenset()
    indicator, padded = indicator and bool(axes), padded and here
    drawn = drawn and label.place == Place.CLIENT
    if (label.slots, label.indicator, label.padded, label.drawn) == (
        axes,
        indicator,
        padded,
        drawn,
    ):
        return label
    return label.replace(slots=axes, indicator=indicator, padded=padded, drawn=drawn)


def _chosen_axes(family: str, label: Label) -> frozenset[int]:
    """The axes on which an index chose: those of positions in a comparison, else all."""
    every = frozenset(range(len(label.axes)))
    if family != "elementwise":
        return every
    return frozenset(k for k in every if label.axes[k].tag == POSITION) or every


def _kept(step, family: str, result: Label) -> frozenset[int]:
    """The axes of a result on which an operand is client-indexed; all of them where that is not known."""
    marked = [label for label in step.inputs if label.slots]
    if not marked:
        return frozenset()
    every = frozenset(range(len(result.axes)))
    if family == "elementwise":
        same = all(len(label.axes) == len(result.axes) for label in marked)
        return frozenset().union(*(label.slots for label in marked)) if same else every
    moved = _moves(step, family)
    if moved is None or len(marked) > 1:
        return every
    return frozenset(moved[k] for k in marked[0].slots if k in moved)


def _moves(step, family: str) -> Mapping[int, int] | None:
    """Where the axes of the first operand are in the result; summed ones are nowhere."""
    rank = len(step.inputs[0].axes)
    match family:
        case "reduce_sum" | "reduce_other":
            gone = set(step.params["axes"])
            return {k: n for n, k in enumerate(k for k in range(rank) if k not in gone)}
        case "squeeze":
            gone = {k % rank for k in step.params["dimensions"]}
            return {k: n for n, k in enumerate(k for k in range(rank) if k not in gone)}
        case "broadcast_in_dim":
            return dict(enumerate(step.params["broadcast_dimensions"]))
        case "transpose":
            return {old: new for new, old in enumerate(step.params["permutation"])}
    return None


def _covered(inputs: list[Label]) -> bool:
    """Whether indicators alone are added to entries of the client that are everywhere."""
    marked = [label for label in inputs if label.slots]
    others = [label for label in inputs if not label.slots]
    dense = [
        label
        for label in others
        if label.place == Place.CLIENT and not label.padded and not label.drawn
    ]
    return (
        bool(marked)
        and all(m.indicator for m in marked)
        and any(
            all(label.axes[k].tag != REPLICATED for k in m.slots)
            for m in marked
            for label in dense
            if len(label.axes) == len(m.axes)
        )
    )


def _indicates(step, family: str, chosen: bool) -> bool:
    """Whether what stands at a chosen index is constant."""
    inputs, own = step.inputs, [label.place == Place.CLIENT for label in step.inputs]
    if chosen:
        match family:
            case "scatter":
                return not (own[0] or own[2])
            case "dynamic_update_slice":
                return not (own[0] or own[1])
            case "gather":
                return not own[0]
            case "elementwise":
                return step.primitive in _COMPARISONS or not any(own[1:])
        return False
    return all(label.indicator if label.slots else not mine for label, mine in zip(inputs, own))


def _pads(step, family: str) -> bool:
    """Whether constants come to stand beside entries of a client in this equation."""
    places = {label.place for label in step.inputs}
    joins = ("concatenate", "stack", "pad", "scatter", "dynamic_update_slice")
    return family in joins and {Place.PUBLIC, Place.CLIENT} <= places


def _chooses(step, family: str, results: list[Label]) -> bool:
    """Whether a client value chooses positions in this equation."""
    inputs = step.inputs
    own = [label.place == Place.CLIENT and not label.drawn for label in inputs]
    match family:
        case "scatter":
            return own[1]
        case "dynamic_update_slice":
            return any(own[2:])
        case "dynamic_slice":
            return any(own[1:]) and _sparse(inputs[0])
        case "gather":
            moved = step.params["dimension_numbers"].start_index_map
            window = any(step.params["slice_sizes"][k] > 1 for k in moved)
            placed = POSITION in inputs[1].tags
            return own[1] and (placed or _constants(inputs[0]) or (window and _sparse(inputs[0])))
        case "sort":
            return len(inputs) > 1 and any(own[: step.params["num_keys"]])
        case "elementwise" if step.primitive in _COMPARISONS:
            return any(own) and any(POSITION in label.tags for label in results)
        case "elementwise" if step.primitive == "select_n":
            return own[0] and len(inputs) > 3
    return False


def _constants(label: Label) -> bool:
    """A table of different constants, such as the rows of an identity matrix."""
    return label.place == Place.PUBLIC and any(a.tag != REPLICATED for a in label.axes)


def _sparse(label: Label) -> bool:
    """Whether a window of these entries shows where it was taken."""
    return label.padded or _constants(label)

"""Contributions that a client places at an index of its own: their entries may be one client's.

A label is *client-indexed* if a client value chose where its entries stand: it was an index of a
write, of a window or of a table of constants, it was compared with positions (`one_hot`), it was the
key of a sort, or it chose among more than two branches. Later operations keep the mark until nothing
but a scalar per client is left. What a client draws at random from a key of its own chooses nothing:
a shuffle is no identity.

The mark says where single contributors are likely to show. Its absence does not say that none do: a
client function can place values in as many ways as there are programs, for example by `v * (k == 3)`
for every constant index.
"""

from audits.transfer.labels import POSITION, REPLICATED, Label, Place, all_drawn

_COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "eq_to", "lt_to", "le_to"})


def marked(step, family: str, results: list[Label]) -> list[Label]:
    """The results of an equation, client-indexed if an operand is or if this equation makes them so."""
    indexed = any(label.slots for label in step.inputs) or _chooses(step, family, results)
    padded = any(label.padded for label in step.inputs) or _pads(step, family)
    drawn = all_drawn(step.inputs)
    return [_with(label, indexed, padded, drawn) for label in results]


def _with(label: Label, indexed: bool, padded: bool, drawn: bool) -> Label:
    several = len(label.axes) - (label.client_axis is not None) > 0
    here = several and label.on_clients
    indexed, padded = indexed and here, padded and here
    drawn = drawn and label.place == Place.CLIENT
    if (label.slots, label.padded, label.drawn) == (indexed, padded, drawn):
        return label
    return label.replace(slots=indexed, padded=padded, drawn=drawn)


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

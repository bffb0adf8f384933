"""Rules of primitives whose operands have axes of different meaning: products, look-ups, additions.

Each rule lists where axes of the operands correspond, as the letters of an `einsum` would say, and
where such an axis is in the result. The axis of clients must be one of them in all operands at once.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from secfad.interop.axis_rules import Case, Kept, Kind, Refused, Summed, shifted, without


class Letter(NamedTuple):
    """An axis of several operands: its position in each (None: not there), and in the result.

    If the result does not have it, it is summed over.
    """

    operands: tuple[int | None, ...]
    result: int | None


def _letter(case: Case, letters: Sequence[Letter], kind: Kind, reason: str) -> Letter:
    for letter in letters:
        if all(axis in (None, place) for axis, place in zip(case.axes, letter.operands)):
            return letter
    raise Refused(kind, reason)


def _outcome(case: Case, letter: Letter, unit: bool = False, **params: Any) -> Kept | Summed:
    everything, takes = {**case.params, **params}, dict(enumerate(letter.operands))
    if letter.result is None:
        return Summed(everything, takes, unit)
    return Kept(everything, takes, (letter.result,), unit)


def _mixed(case: Case, letters: Sequence[Letter]) -> Letter:
    return _letter(case, letters, "mixes", "may mix the values of clients")


def dot_general(case: Case) -> Kept | Summed:
    """A contraction over clients is a sum of the clients' products."""
    contracted, batch = case.params["dimension_numbers"]
    letters = [Letter(pair, None) for pair in zip(*contracted)]
    letters += [Letter(pair, i) for i, pair in enumerate(zip(*batch))]
    free = [
        [k for k in range(len(case.shape(i))) if k not in contracted[i] and k not in batch[i]]
        for i in (0, 1)
    ]
    ends = [(k, None) for k in free[0]] + [(None, k) for k in free[1]]
    letters += [Letter(place, len(batch[0]) + i) for i, place in enumerate(ends)]
    letter = _mixed(case, letters)
    numbers = tuple(
        tuple(shifted(axes, gone) for axes, gone in zip(pairs, letter.operands))
        for pairs in (contracted, batch)
    )
    return _outcome(case, letter, dimension_numbers=numbers)


def convolution(case: Case) -> Kept | Summed:
    """One client's convolution has batches of one, or one feature, as it cannot do without."""
    numbers, params = case.params["dimension_numbers"], case.params
    letters = []
    if params["batch_group_count"] == 1:
        letters.append(Letter((numbers.lhs_spec[0], None), numbers.out_spec[0]))
        if params["feature_group_count"] == 1:
            letters.append(Letter((None, numbers.rhs_spec[0]), numbers.out_spec[1]))
            letters.append(Letter((numbers.lhs_spec[1], numbers.rhs_spec[1]), None))
    return _outcome(case, _mixed(case, letters), unit=True)


def gather(case: Case) -> Kept | Summed:
    """Clients have batches of a table, or of indices into one table, or a whole axis of windows."""
    numbers, sizes = case.params["dimension_numbers"], case.params["slice_sizes"]
    offsets, pairs = numbers.offset_dims, _batches(numbers, numbers.start_indices_batching_dims)
    batch = [k for k in range(len(case.out())) if k not in offsets]
    letters = [Letter(pair, batch[pair[1]]) for pair in pairs]
    paired = {place for _, place in pairs}
    letters += [Letter((None, i), k) for i, k in enumerate(batch) if i not in paired]
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    letters += [
        Letter((k, None), offset)
        for k, offset in zip(_others(case, gone), offsets)
        if k not in numbers.start_index_map and sizes[k] == case.shape(0)[k]
    ]
    if case.axes[0] is None or case.axes[1] is not None:
        letter = _mixed(case, letters)
    else:
        letter = _letter(case, letters, "picks", "picks some of the clients")
    table, indices = letter.operands
    own = numbers._replace(
        offset_dims=shifted(offsets, letter.result),
        collapsed_slice_dims=shifted(numbers.collapsed_slice_dims, table),
        start_index_map=shifted(numbers.start_index_map, table),
        operand_batching_dims=shifted(numbers.operand_batching_dims, table),
        start_indices_batching_dims=shifted(numbers.start_indices_batching_dims, indices),
    )
    rest = sizes if table is None else without(sizes, table)
    return _outcome(case, letter, dimension_numbers=own, slice_sizes=rest)


def scatter(case: Case) -> Kept | Summed:
    """Clients have batches of a table, of indices and of updates, or a whole axis of windows."""
    numbers = case.params["dimension_numbers"]
    windows, written = numbers.update_window_dims, numbers.scatter_dims_to_operand_dims
    scattered = [k for k in range(len(case.shape(2))) if k not in windows]
    pairs = _batches(numbers, numbers.scatter_indices_batching_dims)
    letters = [Letter((table, i, scattered[i]), table) for table, i in pairs]
    gone = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    letters += [
        Letter((k, None, update), k)
        for k, update in zip(_others(case, gone), windows)
        if k not in written and case.shape(0)[k] == case.shape(2)[update]
    ]
    if case.axes[0] is not None and case.axes[1:] == (None, None):
        letter = _letter(case, letters, "picks", "overwrites some of the clients")
    else:
        letter = _mixed(case, letters)
    table, indices, updates = letter.operands
    own = numbers._replace(
        update_window_dims=shifted(windows, updates),
        inserted_window_dims=shifted(numbers.inserted_window_dims, table),
        scatter_dims_to_operand_dims=shifted(written, table),
        operand_batching_dims=shifted(numbers.operand_batching_dims, table),
        scatter_indices_batching_dims=shifted(numbers.scatter_indices_batching_dims, indices),
    )
    return _outcome(case, letter, dimension_numbers=own)


def _batches(numbers: Any, indices: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(numbers.operand_batching_dims, indices))


def _others(case: Case, gone: set[int]) -> list[int]:
    return [k for k in range(len(case.shape(0))) if k not in gone]

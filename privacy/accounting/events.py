"""Events: releases as canonical JSON and as a validated multiset.

An event is a JSON object with a `type` from a fixed table; no part of it is ever resolved as a
module or an attribute. `parse_event` checks every number at every depth and returns `Terms`: the
multiset of elementary mechanisms with counts. Composition does not depend on order, so equal
multisets are equal terms. `accounting` prices the terms.

>>> gaussian = {"type": "gaussian", "noise_multiplier": 2.0}
>>> four = {"type": "self_composed", "event": gaussian, "count": 4}
>>> parse_event({"type": "poisson", "q": 0.1, "event": four})
((Gaussian(noise_multiplier=1.0, q=0.1), 1),)

`noise_multiplier` is the noise's standard deviation over the per-client clip norm, under every
relation. The norm bounds `l1` and `l2`, and `rho`, are those for the relation that is asked for.

Sources: Dong, Roth, Su (2022), section 2; dp_accounting's event classes for the vocabulary.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from privacy.accounting.terms import (
    DistributedDiscreteGaussian,
    FixedSizeGaussian,
    FixedSizeSkellam,
    GaussianTerm,
    Laplace,
    Leaf,
    MixtureOfGaussians,
    NonPrivate,
    RepeatAndSelect,
    SkellamTerm,
    Terms,
    Tree,
    TruncatedGaussian,
    ZCdp,
    joint_noise_multiplier,
    joint_skellam,
    make_terms,
)
from privacy.budgets import (
    finite_number,
    positive_count,
    positive_number,
    sampling_probability,
)
from privacy.errors import InvalidEvent, UnsupportedEvent

MAX_DEPTH = 32
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def parse_event(event: Mapping[str, Any]) -> Terms:
    """Reads an event, validating every number at every depth.

    Raises:
      InvalidEvent: An unknown type, an unknown or missing field, a number out of range.
      UnsupportedEvent: A sample of something whose subsampling has no implemented bound.
    """
    return make_terms(_parse(event, 0))


def event_of(terms: Terms) -> dict[str, Any]:
    """The canonical event of terms; `parse_event` reads it back to the same terms."""
    return {
        "type": "composed",
        "events": [
            {"type": "self_composed", "event": _leaf_event(leaf), "count": count}
            for leaf, count in terms
        ],
    }


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys, no spaces and no NaN: equal values, equal bytes."""
    return _CANONICAL.encode(value).encode()


def _leaf_event(leaf: Leaf) -> dict[str, Any]:
    fields = {**vars(leaf)}
    if isinstance(leaf, GaussianTerm | Laplace | ZCdp | SkellamTerm):
        q = fields.pop("q")
        inner = {"type": _NAMES[type(leaf)], **fields}
        return inner if q == 1 else {"type": "poisson", "q": q, "event": inner}
    if isinstance(leaf, RepeatAndSelect):
        fields["event"] = event_of(fields.pop("terms"))
        fields["shape"] = "inf" if math.isinf(leaf.shape) else leaf.shape
    if isinstance(leaf, FixedSizeSkellam):
        fields["event"] = _leaf_event(fields.pop("noise"))
    if isinstance(leaf, FixedSizeGaussian):
        z = fields.pop("noise_multiplier")
        fields["event"] = {"type": "gaussian", "noise_multiplier": z}
    return {"type": _NAMES[type(leaf)], **fields}


def _parse(event: Any, depth: int) -> list[tuple[Leaf, int]]:
    if depth > MAX_DEPTH:
        raise InvalidEvent(f"Expected at most {MAX_DEPTH} nested events. Flatten the event.")
    if not isinstance(event, Mapping):
        raise InvalidEvent(
            f"Expected an event as a JSON object, got {type(event).__name__}."
            " Pass e.g. {'type': 'gaussian', 'noise_multiplier': 1.0}."
        )
    kind = event.get("type")
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise InvalidEvent(
            f"Expected an event type among {', '.join(sorted(_READERS))};"
            f" got {kind!r}. Types outside this table are never imported or called."
        )
    return reader(event, depth + 1)


_Check = Callable[[Any, str], Any]


def _fields(event: Mapping[str, Any], required: Mapping[str, _Check], **optional: Any) -> dict:
    """Checks that exactly the known fields are present and returns their validated values."""
    kind = event["type"]
    unknown = set(event) - {"type"} - set(required) - set(optional)
    missing = set(required) - set(event)
    if unknown or missing:
        raise InvalidEvent(
            f"Expected the fields {sorted(required)} (optional: {sorted(optional)}) in an event"
            f" of type {kind!r}; missing {sorted(missing)}, unknown {sorted(map(str, unknown))}."
        )
    values = {key: check(event[key], f"{key} of {kind}") for key, check in required.items()}
    for key, (check, default) in optional.items():
        values[key] = check(event[key], f"{key} of {kind}") if key in event else default
    return values


def _probability(value: Any, what: str) -> float:
    del what
    return sampling_probability(value)


def _non_negative(value: Any, what: str) -> float:
    number = finite_number(value, what)
    if number < 0:
        raise InvalidEvent(f"Expected {what} of at least 0, got {value!r}.")
    return number


def _raw(value: Any, what: str) -> Any:
    del what
    return value


def _read_leaf(cls: Callable[..., Leaf], required: Mapping[str, _Check], **optional: Any):
    def read(event: Mapping[str, Any], depth: int) -> list[tuple[Leaf, int]]:
        del depth
        return [(cls(**_fields(event, required, **optional)), 1)]

    return read


def _read_counted(cls: Callable[..., Leaf], required: Mapping[str, _Check]):
    def read(event: Mapping[str, Any], depth: int) -> list[tuple[Leaf, int]]:
        del depth
        values = _fields(event, required, rounds=(positive_count, 1))
        rounds = values.pop("rounds")
        return [(cls(**values), rounds)]

    return read


def _read_no_op(event: Mapping[str, Any], depth: int) -> list[tuple[Leaf, int]]:
    del depth
    _fields(event, {})
    return []


def _read_composed(event: Mapping[str, Any], depth: int) -> list[tuple[Leaf, int]]:
    events = _fields(event, {"events": _raw})["events"]
    if not isinstance(events, Sequence) or isinstance(events, str | bytes):
        raise InvalidEvent(f"Expected a list of events, got {type(events).__name__}.")
    return [pair for part in events for pair in _parse(part, depth)]


def _read_self_composed(event: Mapping[str, Any], depth: int) -> list[tuple[Leaf, int]]:
    values = _fields(event, {"event": _raw, "count": positive_count})
    inner = make_terms(_parse(values["event"], depth))
    return [(leaf, count * values["count"]) for leaf, count in inner]


def _read_poisson(event: Mapping[str, Any], depth: int) -> list[tuple[Leaf, int]]:
    values = _fields(event, {"q": _probability, "event": _raw})
    inner = make_terms(_parse(values["event"], depth))
    return [(_sampled(inner, values["q"]), 1)] if inner else []


def _sampled(terms: Terms, q: float) -> Leaf:
    """The leaf for all of `terms` on one Poisson sample with rate q."""
    leaves = [leaf for leaf, _ in terms]
    gaussians = [(x, n) for x, n in terms if isinstance(x, GaussianTerm) and x.q == 1]
    concentrated = [(x, n) for x, n in terms if isinstance(x, ZCdp) and x.q == 1]
    if len(gaussians) == len(terms):
        return GaussianTerm(
            joint_noise_multiplier([(x.noise_multiplier, n) for x, n in gaussians]), q
        )
    if len(concentrated) == len(terms):
        rho = math.fsum(x.rho * n for x, n in concentrated)
        return ZCdp(rho, math.fsum(x.xi * n for x, n in concentrated), q)
    noisy = [(x, n) for x, n in terms if isinstance(x, SkellamTerm) and x.q == 1]
    if len(noisy) == len(terms):
        whole = noisy[0][0] if len(noisy) == 1 and noisy[0][1] == 1 else joint_skellam(noisy)
        return dataclasses.replace(whole, q=q)
    if len(terms) == 1 and terms[0][1] == 1:
        leaf = leaves[0]
        if isinstance(leaf, Laplace) and leaf.q == 1:
            return Laplace(leaf.noise_multiplier, q)
        if isinstance(leaf, NonPrivate):
            return leaf
    raise UnsupportedEvent(
        "Expected a Poisson sample of Gaussians, of zCDP or Skellam mechanisms or of one Laplace;"
        f" got {', '.join(sorted({type(leaf).__name__ for leaf in leaves}))}."
        " Nested samples and mixtures of noise families on one cohort have no bound here."
    )


def _read_fixed_size(event: Mapping[str, Any], depth: int) -> list[tuple[Leaf, int]]:
    aliases = {"source_dataset_size": "dataset_size", "population": "dataset_size"}
    renamed = {aliases.get(key, key): value for key, value in event.items()}
    required = {"dataset_size": positive_count, "sample_size": positive_count, "event": _raw}
    values = _fields(renamed, required)
    inner = make_terms(_parse(values["event"], depth))
    if not inner:
        return []
    leaf = _sampled(inner, 1.0)
    if (
        not isinstance(leaf, GaussianTerm | SkellamTerm)
        or values["sample_size"] > values["dataset_size"]
    ):
        raise UnsupportedEvent(
            "Expected Gaussian or Skellam noise on a cohort of at most dataset_size clients,"
            f" got {type(leaf).__name__}, {values['sample_size']} of {values['dataset_size']}."
        )
    if values["sample_size"] == values["dataset_size"]:
        return [(leaf, 1)]
    size = (values["dataset_size"], values["sample_size"])
    if isinstance(leaf, SkellamTerm):
        return [(FixedSizeSkellam(*size, leaf), 1)]
    return [(FixedSizeGaussian(*size, leaf.noise_multiplier), 1)]


def _read_mixture(event: Mapping[str, Any], depth: int) -> list[tuple[Leaf, int]]:
    del depth
    required = {
        "standard_deviation": positive_number,
        "sensitivities": _numbers,
        "sampling_probs": _numbers,
    }
    values = _fields(event, required)
    sizes, probabilities = values["sensitivities"], values["sampling_probs"]
    total = math.fsum(probabilities)
    if len(sizes) != len(probabilities) or abs(total - 1) > 1e-9 or max(probabilities) > 1:
        raise InvalidEvent(
            "Expected one probability for each sensitivity, with sum 1; got"
            f" {len(sizes)} sensitivities and {len(probabilities)} probabilities of sum {total!r}."
        )
    parts = sorted((c, p) for c, p in zip(sizes, probabilities) if p > 0)
    size, probability = parts[-1]
    if size == 0:
        return []
    deviation = values["standard_deviation"]
    if sum(c > 0 for c, _ in parts) == 1:  # absent or present: a Poisson sample
        return [(GaussianTerm(deviation / size, probability), 1)]
    return [(MixtureOfGaussians(deviation, *map(tuple, zip(*parts))), 1)]


def _numbers(value: Any, what: str) -> tuple[float, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise InvalidEvent(f"Expected {what} as a list of numbers, got {value!r}.")
    return tuple(_non_negative(number, what) for number in value)


def _read_repeat(event: Mapping[str, Any], depth: int) -> list[tuple[Leaf, int]]:
    required = {"event": _raw, "mean": positive_number, "shape": _shape}
    values = _fields(event, required)
    inner = make_terms(_parse(values["event"], depth))
    return [(RepeatAndSelect(inner, values["mean"], values["shape"]), 1)] if inner else []


def _shape(value: Any, what: str) -> float:
    return math.inf if value in ("inf", math.inf) else _non_negative(value, what)


def _read_sampled_zcdp(event: Mapping[str, Any], depth: int) -> list[tuple[Leaf, int]]:
    del depth
    required = {"q": _probability, "rho": positive_number}
    values = _fields(event, required, count=(positive_count, 1))
    return [(ZCdp(values["rho"], 0.0, values["q"]), values["count"])]


_NOISE: Mapping[str, _Check] = {"noise_multiplier": positive_number}
_READERS: Mapping[str, Callable[[Mapping[str, Any], int], list[tuple[Leaf, int]]]] = {
    "no_op": _read_no_op,
    "non_private": _read_leaf(NonPrivate, {}),
    "gaussian": _read_leaf(GaussianTerm, _NOISE),
    "laplace": _read_leaf(Laplace, _NOISE),
    "zcdp": _read_leaf(ZCdp, {"rho": positive_number}, xi=(_non_negative, 0.0)),
    "tree": _read_leaf(Tree, {**_NOISE, "steps": positive_count}),
    "truncated_poisson_gaussian": _read_leaf(
        TruncatedGaussian,
        {
            "dataset_size": positive_count,
            "q": _probability,
            "truncated_batch_size": positive_count,
            **_NOISE,
        },
    ),
    "distributed_discrete_gaussian": _read_counted(
        DistributedDiscreteGaussian,
        {
            "clients": positive_count,
            "local_sigma": positive_number,
            "l2": positive_number,
            "l1": positive_number,
            "dim": positive_count,
        },
    ),
    "skellam": _read_counted(SkellamTerm, dict.fromkeys(("variance", "l2", "l1"), positive_number)),
    "composed": _read_composed,
    "self_composed": _read_self_composed,
    "poisson": _read_poisson,
    "poisson_zcdp_generic": _read_sampled_zcdp,
    "sampled_without_replacement": _read_fixed_size,
    "sampled_wor": _read_fixed_size,
    "mixture_of_gaussians": _read_mixture,
    "repeat_and_select": _read_repeat,
}
_NAMES = {
    GaussianTerm: "gaussian",
    Laplace: "laplace",
    ZCdp: "zcdp",
    NonPrivate: "non_private",
    Tree: "tree",
    TruncatedGaussian: "truncated_poisson_gaussian",
    DistributedDiscreteGaussian: "distributed_discrete_gaussian",
    SkellamTerm: "skellam",
    FixedSizeGaussian: "sampled_without_replacement",
    FixedSizeSkellam: "sampled_without_replacement",
    MixtureOfGaussians: "mixture_of_gaussians",
    RepeatAndSelect: "repeat_and_select",
}

"""Events: releases as canonical JSON and as a validated multiset.

An event is a JSON object with a `type` from a fixed table; no part of it is ever resolved as a
module or an attribute. `parse_event` checks every number at every depth and returns `Terms`: the
multiset of elementary mechanisms with counts. Composition does not depend on order, so equal
multisets are equal terms. `accounting` prices the terms.

>>> gaussian = {"type": "gaussian", "noise_multiplier": 2.0}
>>> four = {"type": "self_composed", "event": gaussian, "count": 4}
>>> parse_event({"type": "poisson", "q": 0.1, "event": four})
((GaussianTerm(noise_multiplier=1.0, q=0.1), 1),)

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
    fields = {"type": _NAMES[type(leaf)], **vars(leaf)}
    if isinstance(leaf, _SAMPLED) and fields.pop("q") < 1:
        return {"type": "poisson", "q": leaf.q, "event": fields}
    if isinstance(leaf, RepeatAndSelect):
        fields["event"] = event_of(fields.pop("terms"))
        fields["shape"] = "inf" if math.isinf(leaf.shape) else leaf.shape
    if isinstance(leaf, FixedSizeSkellam):
        fields["event"] = _leaf_event(fields.pop("noise"))
    if isinstance(leaf, FixedSizeGaussian):
        fields["event"] = _leaf_event(GaussianTerm(fields.pop("noise_multiplier")))
    return fields


def _parse(event: Any, depth: int) -> list[tuple[Leaf, int]]:
    if depth > MAX_DEPTH:
        raise InvalidEvent(f"Expected at most {MAX_DEPTH} nested events. Flatten the event.")
    if not isinstance(event, Mapping):
        raise InvalidEvent(
            f"Expected an event as a JSON object, got {type(event).__name__}."
            " Pass e.g. {'type': 'gaussian', 'noise_multiplier': 1.0}."
        )
    kind = event.get("type")
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise InvalidEvent(
            f"Expected an event type among {', '.join(sorted(_FIELDS))};"
            f" got {kind!r}. Types outside this table are never imported or called."
        )
    values = _checked(event, kind)
    if kind in _LEAVES:
        count = values.pop("rounds", 1)
        return [(_LEAVES[kind](**values), count)]
    inner = make_terms(_parse(values.pop("event"), depth + 1)) if "event" in values else ()
    match kind:
        case "composed":
            return [pair for part in values["events"] for pair in _parse(part, depth + 1)]
        case "self_composed":
            return [(leaf, count * values["count"]) for leaf, count in inner]
        case "poisson_zcdp_generic":
            return [(ZCdp(values["rho"], 0.0, values["q"]), values["count"])]
        case "mixture_of_gaussians":
            leaf = _mixture(**values)
        case "poisson":
            leaf = _sampled(inner, **values) if inner else None
        case "repeat_and_select":
            leaf = RepeatAndSelect(inner, **values) if inner else None
        case "no_op":
            leaf = None
        case _:
            leaf = _fixed_size(inner, **values) if inner else None
    return [] if leaf is None else [(leaf, 1)]


def _checked(event: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Checks that exactly the known fields are present and returns their validated values."""
    known = _FIELDS[kind]
    given = {_ALIASES.get((kind, key), key): value for key, value in event.items() if key != "type"}
    required = [key for key in known if (kind, key) not in _DEFAULTS]
    missing, unknown = set(required) - set(given), set(given) - set(known)
    if unknown or missing:
        raise InvalidEvent(
            f"Expected the fields {sorted(required)} (optional: {sorted(set(known) - set(required))})"
            f" in an event of type {kind!r}; missing {sorted(missing)}, unknown"
            f" {sorted(map(str, unknown))}."
        )
    found = {key: _CHECKS[key](given[key], f"{key} of {kind}") for key in known if key in given}
    return {key: _DEFAULTS.get((kind, key)) for key in known if key not in given} | found


def _probability(value: Any, what: str) -> float:
    del what
    return sampling_probability(value)


def _non_negative(value: Any, what: str) -> float:
    number = finite_number(value, what)
    if number < 0:
        raise InvalidEvent(f"Expected {what} of at least 0, got {value!r}.")
    return number


def _numbers(value: Any, what: str) -> tuple[float, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise InvalidEvent(f"Expected {what} as a list of numbers, got {value!r}.")
    return tuple(_non_negative(number, what) for number in value)


def _shape(value: Any, what: str) -> float:
    return math.inf if value in ("inf", math.inf) else _non_negative(value, what)


def _event(value: Any, what: str) -> Any:
    del what
    return value  # `_parse` checks it


def _events(value: Any, what: str) -> Sequence[Any]:
    del what
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise InvalidEvent(f"Expected a list of events, got {type(value).__name__}.")
    return value


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


def _fixed_size(terms: Terms, dataset_size: int, sample_size: int) -> Leaf:
    """The leaf for all of `terms` on one sample of fixed size."""
    leaf = _sampled(terms, 1.0)
    if not isinstance(leaf, GaussianTerm | SkellamTerm) or sample_size > dataset_size:
        raise UnsupportedEvent(
            "Expected Gaussian or Skellam noise on a cohort of at most dataset_size clients,"
            f" got {type(leaf).__name__}, {sample_size} of {dataset_size}."
        )
    if sample_size == dataset_size:
        return leaf
    if isinstance(leaf, SkellamTerm):
        return FixedSizeSkellam(dataset_size, sample_size, leaf)
    return FixedSizeGaussian(dataset_size, sample_size, leaf.noise_multiplier)


def _mixture(
    standard_deviation: float,
    sensitivities: tuple[float, ...],
    sampling_probs: tuple[float, ...],
) -> Leaf | None:
    total = math.fsum(sampling_probs)
    sizes, probabilities = len(sensitivities), len(sampling_probs)
    if sizes != probabilities or abs(total - 1) > 1e-9 or max(sampling_probs) > 1:
        raise InvalidEvent(
            "Expected one probability for each sensitivity, with sum 1; got"
            f" {sizes} sensitivities and {probabilities} probabilities of sum {total!r}."
        )
    parts = sorted((c, p) for c, p in zip(sensitivities, sampling_probs) if p > 0)
    size, probability = parts[-1]
    if size == 0:
        return None
    if sum(c > 0 for c, _ in parts) == 1:  # absent or present: a Poisson sample
        return GaussianTerm(standard_deviation / size, probability)
    return MixtureOfGaussians(standard_deviation, *map(tuple, zip(*parts)))


# Mechanisms that can be on a Poisson sample, which is an event around theirs.
_SAMPLED = GaussianTerm | Laplace | ZCdp | SkellamTerm
_LEAVES: Mapping[str, type[Leaf]] = {
    "non_private": NonPrivate,
    "gaussian": GaussianTerm,
    "laplace": Laplace,
    "zcdp": ZCdp,
    "tree": Tree,
    "truncated_poisson_gaussian": TruncatedGaussian,
    "distributed_discrete_gaussian": DistributedDiscreteGaussian,
    "skellam": SkellamTerm,
}
_NAMES = {cls: name for name, cls in _LEAVES.items()} | {
    FixedSizeGaussian: "sampled_without_replacement",
    FixedSizeSkellam: "sampled_without_replacement",
    MixtureOfGaussians: "mixture_of_gaussians",
    RepeatAndSelect: "repeat_and_select",
}
# The fields of every type of event. Those of a mechanism are its own, without the sampling.
_FIELDS: Mapping[str, tuple[str, ...]] = {
    name: tuple(
        field.name
        for field in dataclasses.fields(cls)
        if field.name != "q" or not issubclass(cls, _SAMPLED)
    )
    for name, cls in _LEAVES.items()
} | {
    "distributed_discrete_gaussian": ("clients", "local_sigma", "l2", "l1", "dim", "rounds"),
    "skellam": ("variance", "l2", "l1", "rounds"),
    "no_op": (),
    "composed": ("events",),
    "self_composed": ("event", "count"),
    "poisson": ("q", "event"),
    "poisson_zcdp_generic": ("q", "rho", "count"),
    "sampled_without_replacement": ("dataset_size", "sample_size", "event"),
    "sampled_wor": ("dataset_size", "sample_size", "event"),
    "mixture_of_gaussians": ("standard_deviation", "sensitivities", "sampling_probs"),
    "repeat_and_select": ("event", "mean", "shape"),
}
_DEFAULTS: Mapping[tuple[str, str], Any] = {
    ("zcdp", "xi"): 0.0,
    ("distributed_discrete_gaussian", "rounds"): 1,
    ("skellam", "rounds"): 1,
    ("poisson_zcdp_generic", "count"): 1,
}
_ALIASES = {
    (kind, name): "dataset_size"
    for kind in ("sampled_without_replacement", "sampled_wor")
    for name in ("source_dataset_size", "population")
}
_POSITIVE = ("noise_multiplier", "rho", "local_sigma", "l2", "l1", "variance", "mean")
_COUNTS = ("steps", "dataset_size", "sample_size", "truncated_batch_size", "clients", "dim")
_CHECKS: Mapping[str, Callable[[Any, str], Any]] = {
    **dict.fromkeys((*_POSITIVE, "standard_deviation"), positive_number),
    **dict.fromkeys((*_COUNTS, "rounds", "count"), positive_count),
    "q": _probability,
    "xi": _non_negative,
    "sensitivities": _numbers,
    "sampling_probs": _numbers,
    "shape": _shape,
    "event": _event,
    "events": _events,
}

"""Mode prices: the cost of one private derivative in epsilon, by mode.

Each mode is privatized, and its releases are read from the program. One cohort answers all of them,
so they compose inside the sampling. In forward mode the tangents are stacked into the sums of a
round and clipped with them. In reverse mode the values and, one contact later, the cotangents are
two releases. In mixed mode a value and its summed Jacobian travel together and are clipped
together. The number of released numbers does not change epsilon; it determines the noise of the
derivative.

Source: docs/privacy-model.md, "What a derivative costs"; decision 0032.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

import privacy
from privacy.accounting.terms import joint_noise_multiplier
from privacy.execution.aggregation import groups
from secfad import SERVER, Computation, jacobian, plan, value_and_grad
from secfad.errors import ArgumentError, SecfadError
from secfad.inner import spec


@dataclass(frozen=True)
class Setting:
    """The setting in which a derivative is released.

    Attributes:
      noise_multiplier: Noise multiplier of the sums of every round.
      sampling_rate: Poisson rate of the cohorts, which stay secret with noise by the server; 1 for
        full participation.
      steps: Number of derivatives, each on its own cohort.
      delta: The delta for which epsilon is computed.
    """

    noise_multiplier: float
    sampling_rate: float = 1.0
    steps: int = 1
    delta: float = 1e-5


@dataclass(frozen=True)
class ModePrice:
    """The cost of one mode.

    Attributes:
      mode: "forward", "reverse" or "mixed".
      releases: Rounds of sums that one cohort answers; 0 if the mode does not exist.
      numbers: Number of released numbers of one derivative, including the value.
      noise_multiplier: Noise multiplier of the single Gaussian that is equivalent to the releases.
      released: Epsilon for an observer of the releases.
      server: Epsilon for a server that sees who takes part.
      note: Why there is no price, or "".
    """

    mode: str
    releases: int
    numbers: int
    noise_multiplier: float
    released: float
    server: float
    note: str = ""


def mode_prices(
    computation: Computation,
    specs: Sequence[Any],
    setting: Setting,
    arguments: Sequence[str] = (),
) -> list[ModePrice]:
    """Prices every mode of the derivative by the named arguments.

    Without names, it uses the first floating-point server argument.

    Raises:
      PrivacyError: The setting is invalid.
      ArgumentError: The computation has no such argument.
    """
    position = positions(computation, specs, arguments)
    found = plan(computation, *specs, argnums=position)
    scalar = [spec(v.aval).shape for v in found.value.placed.results] == [()]
    derive = value_and_grad if scalar else jacobian
    mechanism = privacy.Gaussian(noise_multiplier=setting.noise_multiplier, clip_norm=1.0)
    prices = []
    for option in found.options:
        if option.program is None:
            prices.append(ModePrice(option.mode, 0, 0, 0.0, 0.0, 0.0, option.note))
            continue
        derived = derive(computation, position, mode=option.mode)  # type: ignore[arg-type]
        try:
            private = privacy.privatize(derived, *specs, mechanism=mechanism)
        except (SecfadError, privacy.PrivacyError) as error:
            note = str(error).splitlines()[0]
            prices.append(ModePrice(option.mode, 0, 0, 0.0, 0.0, 0.0, note))
            continue
        prices.append(_price(option.mode, private, setting))
    return prices


def positions(
    computation: Computation, specs: Sequence[Any], arguments: Sequence[str]
) -> int | list[int]:
    """Where the named arguments stand; without names, the first floating-point one
    of the server.

    Raises:
      ArgumentError: The computation has no such argument.
    """
    names = list(computation.placements)
    unknown = sorted(set(arguments) - set(names))
    if unknown:
        raise ArgumentError(
            f"Expected arguments of `{computation.name}`, which are {', '.join(names)}, got "
            f"{', '.join(unknown)}."
        )
    if not arguments:
        return _first_argument(computation, specs)
    return [names.index(name) for name in dict.fromkeys(arguments)]


def _first_argument(computation: Computation, specs: Sequence[Any]) -> int:
    """Position of the first argument that is at the server and holds floating-point numbers.

    Raises:
      ArgumentError: There is none.
    """
    for position, (placement, shapes) in enumerate(zip(computation.placements.values(), specs)):
        dtypes = [jnp.result_type(leaf) for leaf in jax.tree.leaves(shapes)]
        floating = bool(dtypes) and all(jnp.issubdtype(d, jnp.inexact) for d in dtypes)
        if placement is SERVER and floating:
            return position
    raise ArgumentError(
        f"Expected `{computation.name}` to have a server argument of floating-point numbers to "
        "differentiate, got none. Place one with secfad.SERVER."
    )


def _price(mode: str, private: privacy.PrivateProgram, setting: Setting) -> ModePrice:
    parts = [g for release in private.releases for g in groups(release, private.mechanism)]
    joint = joint_noise_multiplier([(g.charged_multiplier, 1) for g in parts])
    released, server = (
        privacy.epsilon(_event(joint, rate, setting.steps), setting.delta)
        for rate in (setting.sampling_rate, 1.0)
    )
    numbers = sum(group.size for group in parts)
    return ModePrice(mode, len(private.releases), numbers, joint, released, server)


def _event(noise_multiplier: float, rate: float, steps: int) -> dict[str, Any]:
    """A number of draws at a sampling rate, as an event of the ledger."""
    once: dict[str, Any] = {"type": "gaussian", "noise_multiplier": noise_multiplier}
    if rate != 1:
        once = {"type": "poisson", "q": rate, "event": once}
    return {"type": "self_composed", "event": once, "count": steps}


def prices_table(prices: Sequence[ModePrice], setting: Setting) -> str:
    """The prices as text."""
    rows: list[tuple[str, ...]] = [
        ("mode", "releases", "numbers", "joint noise", "epsilon", "epsilon, server view")
    ]
    for price in prices:
        if price.note:
            rows.append((price.mode, *("-" for _ in rows[0][1:])))
            continue
        rows.append(
            (
                price.mode,
                str(price.releases),
                f"{price.numbers:,}",
                f"{price.noise_multiplier:.4g}",
                f"{price.released:.4g}",
                f"{price.server:.4g}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(w.ljust(n) for w, n in zip(row, widths)).rstrip() for row in rows]
    notes = [f"{price.mode}: {price.note}" for price in prices if price.note]
    title = (
        f"privacy of {setting.steps} derivative(s) at noise multiplier {setting.noise_multiplier:g}, "
        f"sampling rate {setting.sampling_rate:g}, delta {setting.delta:g}; one cohort each"
    )
    return "\n".join([title, *lines, *notes])

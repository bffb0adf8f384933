"""Mechanisms as the command line, pyproject.toml and certificates state them."""

from collections.abc import Mapping, Sequence
from typing import Any

from audits.commands.targets import UnusableInput
from privacy.mechanisms.mechanisms import Gaussian, Mechanism, Skellam

KINDS = {kind.kind: kind for kind in (Gaussian, Skellam)}


def of_options(clip_norms: Sequence[str], noise_multiplier: float | None) -> Gaussian:
    """The mechanism of `--clip-norm NAME=C --noise-multiplier Z`.

    Raises:
      UnusableInput: A part is missing or is no number.
      MechanismError: A number is not positive.
    """
    if not clip_norms or noise_multiplier is None:
        raise UnusableInput(
            "Expected --clip-norm and --noise-multiplier with --dp. Write for example "
            "--dp --clip-norm 1.0 --noise-multiplier 1.2, or --clip-norm delta=0.5 for each sum."
        )
    pairs = [text.rpartition("=") for text in clip_norms]
    try:
        norms = {name: float(number) for name, _, number in pairs}
    except ValueError as error:
        raise UnusableInput(
            f"Expected a clip norm as NUMBER or NAME=NUMBER, got {', '.join(clip_norms)}."
        ) from error
    if ("" in norms and len(pairs) > 1) or len(norms) < len(pairs):
        raise UnusableInput(
            f"Expected one clip norm, or one for each sum, got {', '.join(clip_norms)}."
        )
    alone = norms.get("")
    norm = norms if alone is None else alone
    return Gaussian(noise_multiplier=noise_multiplier, clip_norm=norm)


def of_table(table: Any) -> Mechanism:
    """The mechanism of a table: the fields of `privacy.Gaussian`, or of `Skellam` with its `kind`.

    Raises:
      UnusableInput: There is no such mechanism or field.
      MechanismError: A number is not positive.
    """
    if not isinstance(table, Mapping):
        raise UnusableInput(f"Expected a table as `mechanism`, got {table!r}.")
    fields = {name: value for name, value in table.items() if name != "kind"}
    kind = table.get("kind", Gaussian.kind)
    try:
        return KINDS[kind](**fields)
    except (KeyError, TypeError) as error:
        raise UnusableInput(
            f"Expected a mechanism of {', '.join(KINDS)} with its clip_norm and noise_multiplier, "
            f"got {dict(table)} ({error})."
        ) from error


def of_record(record: Mapping[str, Any]) -> Mechanism:
    """The mechanism of a record, as certificates state it.

    Raises:
      UnusableInput: There is no such mechanism.
      MechanismError: A number is not positive.
    """
    fields = {name: value for name, value in record.items() if name != "mechanism"}
    if record.get("mechanism") == Skellam.kind:
        fields.pop("noise", None)
    return of_table({**fields, "kind": record.get("mechanism")})

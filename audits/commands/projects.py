"""The programs of a project and the acceptances of their obligations: `[tool.secfad]` in pyproject.toml.

    [tool.secfad]
    acceptances = "secfad-acceptances.json"   # the default; written by `secfad accept`
    baseline = "secfad-baseline.json"         # findings that are known; none by default
    refuse_obligations = true                 # as --error-on-caveat

    [tool.secfad.programs.loss]
    target = "model.py:loss"                  # or "package.module:loss"; the one key that is required
    modes = ["forward", "reverse"]            # default "all"
    wrt = ["model"]
    public = ["TABLE"]
    style = "native"                          # or "stacked", "drjax", "spmd", with clients = [...]
    mechanism = {clip_norm = {delta = 0.5}, noise_multiplier = 1.2}   # certifies the private program
    purpose = "training"

Files are named relative to the folder of pyproject.toml.
"""

import dataclasses
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from audits.commands.mechanisms import of_table
from audits.commands.requests import Request
from audits.commands.targets import Target, UnusableInput
from privacy.certificates.acceptances import Acceptance
from privacy.errors import MechanismError

SETTINGS = {"acceptances": str, "baseline": str, "refuse_obligations": bool, "programs": dict}
LISTS = ("modes", "wrt", "public", "clients")
KEYS = {"target", "style", "mechanism", "purpose", *LISTS}


@dataclasses.dataclass(frozen=True)
class Project:
    """What is declared about the programs of a folder.

    Attributes:
      root: The folder.
      programs: Name to request.
      acceptances: The file of acceptances.
      baseline: The file of known findings, if there is one.
      refuse_obligations: Whether obligations that nobody accepted are rejections.
    """

    root: Path
    programs: Mapping[str, Request] = dataclasses.field(default_factory=dict)
    acceptances: Path = Path("secfad-acceptances.json")
    baseline: Path | None = None
    refuse_obligations: bool = False

    @classmethod
    def find(cls, folder: Path | None = None) -> Self:
        """Reads pyproject.toml of a folder or of the next one above; a folder alone has no programs.

        Raises:
          UnusableInput: The table has an unknown key or a value of another kind.
        """
        start = (folder or Path.cwd()).resolve()
        for root in (start, *start.parents):
            file = root / "pyproject.toml"
            if file.is_file():
                return cls._read(root, file)
        return cls(start, acceptances=start / cls.acceptances)

    @classmethod
    def _read(cls, root: Path, file: Path) -> Self:
        try:
            table = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {})
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UnusableInput(f"Expected TOML in {file}, got {error}.") from error
        found = _table(table.get("secfad", {}), set(SETTINGS), "tool.secfad")
        for name, kind in SETTINGS.items():
            if name in found and not isinstance(found[name], kind):
                raise _wrong(f"`{name}` of tool.secfad", f"a {kind.__name__}", found[name])
        programs = {
            name: _request(name, table, root) for name, table in found.get("programs", {}).items()
        }
        baseline = found.get("baseline")
        return cls(
            root,
            programs,
            root / found.get("acceptances", cls.acceptances),
            None if baseline is None else root / baseline,
            found.get("refuse_obligations", False),
        )

    def requests(self, name: str) -> dict[str, Request]:
        """The programs of a name or of a target; a target that is not declared asks for all modes."""
        if name in self.programs:
            return {name: self.programs[name]}
        target = Target.parse(name)
        wanted = self.identity(target)
        declared = {n: r for n, r in self.programs.items() if self.identity(r.target) == wanted}
        return declared or {wanted: Request(target)}

    def identity(self, target: Target) -> str:
        """What acceptances call a program."""
        return target.seen_from(self.root)

    def accepted(self, target: Target) -> tuple[Acceptance, ...]:
        """The acceptances of a program.

        Raises:
          UnusableInput: The file of acceptances has another form.
        """
        wanted = self.identity(target)
        return tuple(a for a in read_acceptances(self.acceptances) if a.program == wanted)


def read_acceptances(path: Path) -> tuple[Acceptance, ...]:
    """The acceptances of a file; none without one.

    Raises:
      UnusableInput: It has another form.
    """
    if not path.exists():
        return ()
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(items, list):
            raise TypeError(f"a {type(items).__name__}")
        found = tuple(Acceptance(**item) for item in items)
        faults = [a.fault for a in found if a.fault is not None]
    except (ValueError, TypeError, AttributeError) as error:
        raise UnusableInput(
            f"Expected acceptances in {path}, got {error}. Write them with secfad accept."
        ) from error
    if faults:
        raise UnusableInput(f"Expected {faults[0]} in {path}. Write it again with secfad accept.")
    return found


def add_acceptances(path: Path, given: Iterable[Acceptance]) -> None:
    """Writes acceptances to the file; each takes the place of one by the same person of the same text."""
    kept = {(a.program, a.rule, a.text, a.by): a for a in (*read_acceptances(path), *given)}
    body = [dataclasses.asdict(kept[key]) for key in sorted(kept)]
    text = json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _request(name: str, table: Any, root: Path) -> Request:
    where = f"tool.secfad.programs.{name}"
    found = _table(table, KEYS, where)
    for key in ("target", "style", "purpose"):
        if not isinstance(found.get(key, ""), str):
            raise _wrong(f"`{key}` of {where}", "a text", found[key])
    if "target" not in found:
        raise _wrong(where, 'a target, such as target = "model.py:loss"', "none")
    chosen = {key: found[key] for key in ("style", "purpose") if key in found}
    for key in LISTS:
        given = found.get(key, [])
        given = [given] if isinstance(given, str) else given
        if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
            raise _wrong(f"`{key}` of {where}", "a list of names", found[key])
        if given:
            chosen[key] = tuple(given)
    try:
        if "mechanism" in found:
            chosen["mechanism"] = of_table(found["mechanism"])
        return Request(Target.parse(found["target"], root), **chosen)
    except (UnusableInput, MechanismError) as error:
        raise UnusableInput(f"{where}: {error}") from error


def _table(found: Any, keys: set[str], where: str) -> Mapping[str, Any]:
    if not isinstance(found, Mapping):
        raise _wrong(where, "a table", found)
    unknown = sorted(set(found) - keys)
    if unknown:
        raise _wrong(where, f"keys among {', '.join(sorted(keys))}", ", ".join(unknown))
    return found


def _wrong(where: str, expected: str, got: Any) -> UnusableInput:
    return UnusableInput(f"Expected {expected} in {where} of pyproject.toml, got {got!r}.")

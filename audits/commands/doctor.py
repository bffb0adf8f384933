"""`secfad doctor`: whether this installation can work, and what to do where it cannot.

Nothing is changed, and nothing is looked up on a network.
"""

import importlib
import importlib.metadata
import importlib.util
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

PACKAGES = ("secfad", "secagg", "privacy", "audits")
# What a file of the user's must not be called in a folder from which Python is started.
TAKEN = (*PACKAGES, "jax", "numpy", "optax")
SHOWN = ("jax", "jaxlib", "numpy", "cryptography", "dp-accounting")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
      what: Its name.
      found: What was found.
      remedy: What to do about it; empty if it is in order.
    """

    what: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{'wrong' if self.remedy else 'ok':5}  {self.what:14}  {self.found}"
        return f"{line}\n       {self.remedy}" if self.remedy else line


def examined(folder: Path) -> list[Check]:
    """All checks, for Python started in a folder."""
    return [_python(), *_requirements(), _devices(), *_extras(), _home(), *_shadows(folder)]


def _python() -> Check:
    return Check("Python", f"{platform.python_version()} on {platform.platform()}")


def _requirements() -> Iterator[Check]:
    """What secfad needs; the rest of it only where something is wrong."""
    needed = [r for r in _declared() if r.marker is None]
    for requirement in [*needed, Requirement("jaxlib")]:
        version = _version(requirement.name)
        if version is None:
            advice = f"Run: pip install '{requirement}'"
            yield Check(requirement.name, "not installed", advice)
        elif not requirement.specifier.contains(version, prereleases=True):
            advice = f"secfad needs {requirement}. Run: pip install '{requirement}'"
            yield Check(requirement.name, version, advice)
        elif requirement.name in SHOWN:
            yield Check(requirement.name, version)


def _declared() -> list[Requirement]:
    try:
        return [Requirement(text) for text in importlib.metadata.requires("secfad") or ()]
    except importlib.metadata.PackageNotFoundError:
        return []


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> Check:
    try:
        import jax

        return Check("devices", ", ".join(f"{d.platform}:{d.id}" for d in jax.devices()))
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        advice = "Run: JAX_PLATFORMS=cpu secfad doctor. If that works, the accelerator is at fault."
        return Check("devices", f"{type(error).__name__}: {said}", advice)


def _extras() -> Iterator[Check]:
    """What each extra adds; an extra that is not installed is in order."""
    declared = [r for r in _declared() if r.marker is not None]
    for extra in _extra_names():
        members = [r.name for r in declared if r.marker and r.marker.evaluate({"extra": extra})]
        missing = [name for name in members if _version(name) is None]
        found = f"missing {', '.join(missing)}: pip install 'secfad[{extra}]'"
        yield Check(f"extra {extra}", found if missing else "installed")


def _extra_names() -> list[str]:
    try:
        return importlib.metadata.metadata("secfad").get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _home() -> Check:
    """The four packages are installed together: `privacy` and `audits` are also names of others."""
    homes = {name: _folder(name) for name in PACKAGES}
    listed = sorted({str(home.parent) for home in homes.values() if home is not None})
    if len(listed) == 1 and all(homes.values()):
        return Check("packages", listed[0])
    found = ", ".join(f"{name} in {home or 'no folder'}" for name, home in homes.items())
    advice = "One of them is another distribution's. Install secfad into an environment of its own."
    return Check("packages", found, advice)


def _folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).resolve().parent if spec and spec.origin else None


def _shadows(folder: Path) -> Iterator[Check]:
    """Files and packages of the folder that Python would import in place of ours."""
    for name in TAKEN:
        for path in (folder / f"{name}.py", folder / name / "__init__.py"):
            if path.is_file() and path.resolve().parent != _folder(name):
                shown = path if path.name == f"{name}.py" else path.parent
                advice = f"Python imports it in place of the package `{name}`. Rename it."
                yield Check("this folder", f"has {shown.name}", advice)

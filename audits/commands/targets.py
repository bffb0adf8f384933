"""The subjects of commands: `FILE.py:NAME` or `package.module:NAME`, with the shapes of its arguments.

A module defines a computation called NAME, and the shapes of its arguments by one of

    SPECS = {"NAME": (spec, ...)}        a tuple of jax.ShapeDtypeStruct, arrays or trees of them
    def NAME_specs(): return (spec, ...)

NAME may also be a `PrivateProgram` or a `Program`, which need no specs. In another style than native
it is a plain function. Loading a module runs it.
"""

import dataclasses
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import jax

from audits.reports.locations import within
from privacy.mechanisms.privatization import PrivateProgram
from secfad import Computation, Program, trace
from secfad.errors import ArgumentError, SecfadError
from secfad.inner import as_struct

MOST_NAMES = 20


class UnusableInput(Exception):
    """The target, the name or its specs are invalid; the message states the remedy."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A name in a file or in an importable module.

    Attributes:
      place: `FILE.py`, or `package.module`.
      name: A name in it.
      root: Folder of files and of the first packages.
    """

    place: str
    name: str
    root: Path = Path()

    @classmethod
    def parse(cls, text: str, root: Path = Path()) -> Self:
        """Splits `FILE.py:NAME` or `package.module:NAME`.

        Raises:
          UnusableInput: The text has another form.
        """
        place, _, name = text.rpartition(":")
        if not place or not name:
            raise UnusableInput(
                f"Expected FILE.py:NAME or package.module:NAME, got {text!r}. Write for example "
                "model.py:round_loss."
            )
        return cls(place, name, root)

    def __str__(self) -> str:
        return f"{self.place}:{self.name}"

    @property
    def path(self) -> Path | None:
        """The file; None for the name of a module."""
        words = self.place.split(".")
        is_module = words[-1] != "py" and all(word.isidentifier() for word in words)
        file = self.root / self.place
        return None if is_module and not file.is_file() else file

    @property
    def stem(self) -> str:
        """What files about the program are called after."""
        return self.place if self.path is None else self.path.stem

    def seen_from(self, root: Path) -> str:
        """The target as it is written in a folder; with slashes."""
        place = (
            self.place if self.path is None else within(str(self.path.resolve()), root.resolve())
        )
        return f"{place}:{self.name}"

    @property
    def file(self) -> Path | None:
        """The file of the loaded module."""
        if self.path is not None:
            return self.path.resolve()
        found = getattr(sys.modules.get(self.place), "__file__", None)
        return None if found is None else Path(found)

    def module(self) -> ModuleType:
        """Loads the file or imports the module.

        Raises:
          UnusableInput: There is none, or its code fails.
        """
        if self.path is None:
            return _run(lambda: importlib.import_module(self.place), self.root.resolve())
        return _loaded(self.path)


def load(target: Target, module: ModuleType | None = None) -> tuple[Any, tuple]:
    """A computation, program or private program, and its specs.

    Args:
      target: Its name.
      module: The module of the target, if it is loaded already.

    Raises:
      UnusableInput: The file cannot be loaded, or it does not define the name or its specs.
    """
    module = module or target.module()
    subject = _named(module, target.name, Computation, "computation")
    if isinstance(subject, Program | PrivateProgram):
        return subject, ()
    if not isinstance(subject, Computation):
        raise UnusableInput(
            f"Expected `{target.name}` to be a computation, got a {type(subject).__name__}. "
            "Decorate the function with @secfad.computation(argument=secfad.SERVER, ...), or say "
            "with --style stacked, drjax or spmd how it is written."
        )
    return subject, _specs(module, target.name, tuple(subject.placements))


def load_function(target: Target, module: ModuleType | None = None) -> tuple[Callable, dict]:
    """A function of another style than native, and the spec of each of its parameters.

    Raises:
      UnusableInput: The file cannot be loaded, or it does not define the function or its specs.
    """
    module = module or target.module()
    function = _named(module, target.name, Callable, "function")
    if isinstance(function, Computation) or not callable(function):
        raise UnusableInput(
            f"Expected `{target.name}` to be a function of arrays, got a "
            f"{type(function).__name__}. A computation is native: leave out --style."
        )
    try:
        names = tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError) as error:
        raise UnusableInput(
            f"Expected `{target.name}` to have named parameters, got {error}."
        ) from error
    return function, dict(zip(names, _specs(module, target.name, names)))


def _named(module: ModuleType, name: str, kind: Any, word: str) -> Any:
    if not hasattr(module, name):
        found = [f"`{k}`" for k, v in vars(module).items() if isinstance(v, kind)]
        listed = ", ".join(found[:MOST_NAMES]) or "none"
        raise UnusableInput(f"Expected a {word} `{name}`, got a file with {listed}.")
    return getattr(module, name)


def _loaded(path: Path) -> ModuleType:
    if not path.is_file():
        raise UnusableInput("Expected a Python file, got none at this path.")
    label = f"_secfad_subject_{path.stem}"
    spec = importlib.util.spec_from_file_location(label, path)
    if spec is None or spec.loader is None:
        raise UnusableInput("Expected a Python file with the suffix .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[label] = module
    loader = spec.loader
    _run(lambda: loader.exec_module(module), path.parent.resolve())
    return module


def _run(code: Callable[[], Any], folder: Path) -> Any:
    """Runs code of the user's with a folder on the path of imports."""
    sys.path.insert(0, str(folder))
    try:
        return code()
    except (Exception, SystemExit) as error:
        raise UnusableInput(f"Loading failed with {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(folder))


def _specs(module: ModuleType, name: str, arguments: Sequence[str]) -> tuple:
    declared = getattr(module, "SPECS", {})
    maker = getattr(module, f"{name}_specs", None)
    specs = declared.get(name) if isinstance(declared, dict) else None
    if specs is None and callable(maker):
        try:
            specs = maker()
        except Exception as error:
            failed = f"{type(error).__name__}: {error}"
            raise UnusableInput(f"`{name}_specs()` failed with {failed}") from error
    if not isinstance(specs, tuple | list) or len(specs) != len(arguments):
        raise UnusableInput(
            f"Expected the shapes of ({', '.join(arguments)}), got {specs or 'none'}. "
            f'Write SPECS = {{"{name}": (jax.ShapeDtypeStruct(shape, dtype), ...)}} in the file.'
        )
    try:
        return tuple(
            jax.tree.map(lambda leaf, n=n: as_struct(leaf, n), spec)
            for n, spec in zip(arguments, specs)
        )
    except ArgumentError as error:
        raise UnusableInput(f"The shapes of `{name}` are invalid. {error}") from error


def require_traceable(
    subject: Computation,
    specs: Sequence[Any],
    target: Target,
    *,
    passed: tuple[type[Exception], ...] = (),
) -> None:
    """Reports where the code of a file fails, before it is differentiated.

    Errors of secfad, and `passed` ones, are left to the next trace.

    Raises:
      UnusableInput: Tracing the computation failed; names the line.
    """
    try:
        trace(subject, *specs)
    except (SecfadError, *passed):
        return
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if Path(f.filename) == target.file]
        where = f" at line {lines[-1]}" if lines else ""
        said = str(error).splitlines()[0] if str(error) else "no message"
        raise UnusableInput(
            f"`{subject.name}` failed{where} with {type(error).__name__}: {said.rstrip('.')}. "
            "Check the function and the shapes of its arguments."
        ) from error

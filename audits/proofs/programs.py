"""Programs as data: reads the canonical form that a digest covers.

A `Body` is a list of equations over numbered variables; control flow and calls hold programs of their
own, which are read when they are needed, each occurrence by itself. Nothing here trusts the text: it
came with a certificate, from anyone.

>>> body = '{"avals":[["float32",[3],0]],"inputs":[0,1],"equations":[],"results":[0]}'
>>> words = '"words":["server","->","server","",""]'
>>> form = f'{{"format":"{FORMAT}",{words},"bodies":[{body}],"program":[0,[]]}}'
>>> Program.read(form).body.avals
(Aval(dtype='float32', shape=(3,)),)

Source: docs/decisions/0002-structural-digest.md.
"""

import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

FORMAT = "secfad-program-2"
MOST_EQUATIONS = 3_000_000  # at all depths; shared bodies could be many more than are written down
BROADCAST, SUM, CLIP = "federated_broadcast", "federated_sum", "federated_clip"
_OWN = "@secfad."


class ProgramError(ValueError):
    """The text is not the canonical form of a program."""


class Aval(NamedTuple):
    """Dtype and shape of a value."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Payload; of a key, that of its words."""
        return math.prod(self.shape) * itemsize(self.dtype)


class Constant(NamedTuple):
    """A number that is written into the program; None if only its hash is."""

    aval: Aval
    number: float | int | bool | None


Atom = int | Constant


@dataclasses.dataclass(frozen=True, eq=False)
class Equation:
    """One equation.

    Attributes:
      body: The body that it is in.
      position: Its place there.
      primitive: Name and origin of the operation, such as `add@jax._src.lax`.
      inputs: Its operands.
      params: Its parameters, in canonical form.
      outputs: The variables that it defines.
    """

    body: "Body"
    position: int
    primitive: str
    inputs: tuple[Atom, ...]
    params: dict[str, Any]
    outputs: tuple[int, ...]

    @functools.cached_property
    def name(self) -> str:
        """The name of the operation; one of unknown origin has none."""
        return "" if self.primitive.startswith("foreign:") else self.primitive.partition("@")[0]

    @functools.cached_property
    def kind(self) -> str:
        """`broadcast`, `sum`, `clip`, `scan`, `while`, `cond`, `solve`, `call` or `plain`."""
        return _KINDS.get(self.name, "plain")

    @property
    def label(self) -> str:
        """The name that a message was given."""
        name = self.params["name"]
        _require(isinstance(name, str), "a name of a message", name)
        return name

    def number(self, name: str) -> int:
        """A whole parameter that is not negative."""
        value = self.params[name]
        _require(type(value) is int and value >= 0, f"a whole number as {name}", value)
        return value

    @functools.cached_property
    def programs(self) -> dict[str, "Body"]:
        """Every program among the parameters, by name; branches and solves by name and position."""
        found = (_inside(name, value, self.body) for name, value in self.params.items())
        return dict(itertools.chain.from_iterable(found))

    def split(self, *names: str) -> list[tuple[Atom, ...]]:
        """The operands in groups as long as some parameters say, and the others."""
        groups, rest = [], self.inputs
        for name in names:
            count = self.number(name)
            _require(count <= len(rest), f"{count} operands", len(rest))
            groups.append(rest[:count])
            rest = rest[count:]
        return [*groups, rest]


class Body:
    """One occurrence of a body.

    Attributes:
      source: The whole text, as plain values.
      index: Of this body there.
      avals: Of every variable, in the order of their numbers.
      constants: How many of the first variables are constants.
      inputs: The variables of the inputs.
      equations: In order.
      results: What it returns.
    """

    def __init__(self, source: "_Source", index: int):
        form = source.body(index)
        self.source, self.index = source, index
        self.avals = tuple(map(_aval, form["avals"]))
        self.constants, count = form["inputs"]
        _require(self.constants >= 0 and count >= 0, "numbers of inputs", form["inputs"])
        self.inputs = tuple(range(self.constants, self.constants + count))
        self.equations: list[Equation] = []
        known = self.constants + count
        for position, (primitive, operands, params, outputs) in enumerate(form["equations"]):
            atoms = tuple(_atom(a, known) for a in operands)
            defined = tuple(range(known, known + outputs))
            _require(
                isinstance(primitive, str) and isinstance(params, dict), "an equation", primitive
            )
            self.equations.append(Equation(self, position, primitive, atoms, params, defined))
            known += outputs
        _require(known == len(self.avals), f"{len(self.avals)} variables", known)
        self.results = tuple(_atom(a, known) for a in form["results"])
        source.count(len(self.equations) + 1)

    def aval(self, atom: Atom) -> Aval:
        """Of a variable or constant."""
        return atom.aval if isinstance(atom, Constant) else self.avals[atom]

    @functools.cached_property
    def communicates(self) -> bool:
        """Whether anything inside is a message."""
        return any(
            e.kind in ("broadcast", "sum") or any(b.communicates for b in e.programs.values())
            for e in self.equations
        )


@dataclasses.dataclass(frozen=True)
class Program:
    """A whole program.

    Attributes:
      body: What it computes.
      placements: Of every argument, "server" or "clients".
      results: Of every result, or "constant".
    """

    body: Body
    placements: tuple[str, ...]
    results: tuple[str, ...]

    @classmethod
    def read(cls, text: str) -> "Program":
        """Reads a canonical form.

        Raises:
          ProgramError: It is none.
        """
        try:
            form = json.loads(text)
            _require(form.get("format") == FORMAT, f"the format {FORMAT}", form.get("format"))
            words, (index, _) = form["words"], form["program"]
            arrow = words.index("->")
            body = Body(_Source(form["bodies"]), index)
            made = cls(body, tuple(words[:arrow]), tuple(words[arrow + 1 : -2]))
        except (
            AttributeError,
            KeyError,
            IndexError,
            TypeError,
            ValueError,
            RecursionError,
        ) as error:
            if isinstance(error, ProgramError):
                raise
            raise ProgramError(f"Expected the canonical form of a program: {error!r}.") from error
        _require(len(made.placements) == len(body.inputs), "a placement per argument", words)
        _require(len(made.results) == len(body.results), "a placement per result", words)
        _require({*made.placements} <= {"server", "clients"}, "placements of arguments", words)
        return made


class _Source:
    """The bodies of a text; what is read of them is limited."""

    def __init__(self, bodies: list):
        self.bodies = bodies
        self.left = MOST_EQUATIONS

    def body(self, index: int) -> dict:
        _require(
            type(index) is int and 0 <= index < len(self.bodies), "the number of a body", index
        )
        return self.bodies[index]

    def count(self, equations: int) -> None:
        self.left -= equations
        _require(self.left > 0, f"at most {MOST_EQUATIONS} equations", "more")


def _inside(name: str, value: Any, outer: Body) -> Iterator[tuple[str, Body]]:
    if not isinstance(value, list) or not value:
        return
    if value[0] in ("program", "body"):
        _require(value[1] < outer.index, "a body that was complete before", value[1])
        yield name, Body(outer.source, value[1])
    elif value[0] == "items":
        for position, item in enumerate(value[2]):
            yield from _inside(f"{name}.{position}", item, outer)


def items(value: Any) -> list:
    """The items of a tuple among parameters."""
    _require(isinstance(value, list) and len(value) == 3 and value[0] == "items", "a tuple", value)
    return value[2]


def _atom(form: Any, known: int) -> Atom:
    if type(form) is int:
        _require(0 <= form < known, f"a variable below {known}", form)
        return form
    aval, (_, _, _, number) = form
    return Constant(_aval(aval), number if isinstance(number, int | float) else None)


def _aval(form: Any) -> Aval:
    dtype, shape, *_ = form
    whole = all(type(d) is int and d >= 0 for d in shape)
    _require(isinstance(dtype, str) and whole, "a dtype and a shape", form)
    return Aval(dtype, tuple(shape))


_BYTES = {"bool": 1, "float0": 1, "complex64": 8, "complex128": 16, "key<fry>": 8, "key<rbg>": 16,
          "key<urbg>": 16, "bfloat16": 2, "int4": 1, "uint4": 1, "int2": 1, "uint2": 1}  # fmt: skip


def itemsize(dtype: str) -> int:
    """Bytes of an entry.

    Raises:
      ProgramError: The dtype is unknown.
    """
    if dtype in _BYTES:
        return _BYTES[dtype]
    if dtype.startswith(("float8_", "float4_", "float6_")):
        return 1
    bits = dtype.lstrip("abcdefghijklmnopqrstuvwxyz")
    _require(dtype.startswith(("float", "int", "uint")) and bits in _BITS, "a known dtype", dtype)
    return int(bits) // 8


_BITS = ("8", "16", "32", "64")
_CALLS = ("jit", "pjit", "closed_call", "core_call", "call", "checkpoint", "remat", "remat2",
          "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")  # fmt: skip
_KINDS = {
    BROADCAST: "broadcast",
    SUM: "sum",
    CLIP: "clip",
    "scan": "scan",
    "while": "while",
    "cond": "cond",
    "custom_linear_solve": "solve",
    "linear_solve": "solve",
    **dict.fromkeys(_CALLS, "call"),
}


def _require(good: bool, expected: str, got: Any) -> None:
    if not good:
        raise ProgramError(f"Expected {expected} in a program, got {str(got)[:80]}.")

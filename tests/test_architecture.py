"""The import arrows between packages, and the files that alone may import a sensitive library.

Read from the syntax tree, so imports inside functions count too.
"""

import ast
import functools
import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("secfad", "secagg", "privacy", "audits")
ARROWS = {
    "secfad": set(),
    "secagg": set(),
    "privacy": {"secfad", "secagg"},
    "audits": {"secfad", "secagg", "privacy"},
}
# The rooms of each package, in an order: a room is loaded with those before it only. Names are those of
# folders, or of modules that stand in none. A picture of a program is imported when it is asked for.
ROOMS = {
    "secfad": (
        *("errors", "placements", "cohorts", "collecting", "_jax", "_jax_interpreters", "totals"),
        *("primitives", "clipping", "jaxprs", "vmap_rules", "computations", "programs"),
        *("derivatives", "engines", "views", "interop", "algorithms", "data", "inner"),
    ),
    "secagg": ("errors", "crypto", "encoding", "protocol", "simulation"),
    "privacy": (
        *("errors", "checking", "relations", "files", "arrays", "budgets", "cards"),
        *("mechanisms", "certificates", "noise", "accounting", "ledger", "execution", "training"),
    ),
    "audits": (
        *("rules", "refusals", "snapshots", "mode_prices", "reports", "transfer"),
        *(
            "bounds.values",
            "bounds.domains",
            "bounds",
            "proofs",
            "checking",
            "certifying",
            "projections",
            "pytest_plugin",
        ),
        *("quickstart", "commands"),
    ),
}
MOST_MODULES, MOST_FLOORS = 15, 7
SINGLE_IMPORTERS = {
    "jax.extend": "secfad/_jax.py",
    "jax.interpreters": "secfad/_jax_interpreters.py",
    "jax.core": "secfad/_jax.py",
    "jax._src": "secfad/_jax.py",
    "cryptography": "secagg/crypto/primitives.py",
    "dp_accounting": "privacy/accounting/library_curves.py",
    "drjax": "secfad/interop/drjax.py",
}


# Whose web addresses may stand in a package: types and schemas of others, and examples of theirs.
HOSTS = {"in-toto.io", "json.schemastore.org", "www.w3.org", "github.com", "example.com"}


def names_of(node: ast.AST) -> list[str]:
    """Absolute module names of an import, with `from a import b` as both `a` and `a.b`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
    return []


@functools.cache
def imported_names(path: Path) -> list[str]:
    """Every module name that a file imports, anywhere."""
    return [name for node in ast.walk(ast.parse(path.read_text())) for name in names_of(node)]


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def within(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_along_the_arrows(package):
    forbidden = set(PACKAGES) - ARROWS[package] - {package}
    for path in (ROOT / package).rglob("*.py"):
        for name in imported_names(path):
            assert name.split(".")[0] not in forbidden, f"{path.relative_to(ROOT)} imports {name}"


# What of secfad others may import: its names, rooms for users, and one door for the sister packages.
OPEN = ("errors", "cohorts", "algorithms", "data", "interop", "inner")


@pytest.mark.parametrize("package", ["privacy", "audits", "experiments"])
def test_only_the_open_rooms_of_secfad_are_imported_from_outside(package):
    for path in (ROOT / package).rglob("*.py"):
        for name in imported_names(path):
            if (ROOT / name.replace(".", "/")).is_dir() or not within(name, "secfad"):
                continue
            module = (ROOT / name.replace(".", "/")).with_suffix(".py").exists()
            inside = name.count(".") > 1 or module
            open_room = any(within(name, f"secfad.{room}") for room in OPEN)
            assert open_room or not inside, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("module", SINGLE_IMPORTERS)
def test_sensitive_libraries_have_one_importer(module):
    allowed = ROOT / SINGLE_IMPORTERS[module]
    for path in sources():
        if path != allowed:
            for name in imported_names(path):
                assert not within(name, module), f"{path.relative_to(ROOT)} imports {name}"


# Who knows how JAX lays out calls, loops and branches. The verifier shares no code with secfad.
LAYOUT = {"num_consts", "num_carry", "cond_nconsts", "body_nconsts", "const_lengths"}
LAYOUT |= {"cond_jaxpr", "body_jaxpr", "call_jaxpr", "jaxprs", "branches"}
KNOWS_LAYOUT = {
    f"audits/proofs/{name}.py" for name in ("dataflow", "limits", "pairs", "places", "state")
}
# Who walks through equations beside `secfad.jaxprs`. The list may only become shorter.
WALKS = {
    "secfad/derivatives/factoring.py",
    "secfad/engines/contacts.py",
    "secfad/engines/contractions.py",
    "secfad/primitives.py",
    "secfad/programs/following.py",
    "secfad/programs/normalization.py",
    "secfad/views/tables.py",
    "audits/bounds/proving.py",
    "audits/checking/evidence.py",
    "audits/checking/outputs.py",
    "audits/checking/provenance.py",
    "audits/projections.py",
    "audits/transfer/indexing.py",
    "audits/transfer/interpreter.py",
    "audits/transfer/loops.py",
}


def outside_the_toolkit(found: Callable[[ast.AST], bool]) -> set[str]:
    """Modules outside of `secfad.jaxprs` whose syntax trees have such a node."""
    paths = [p for p in sources() if not p.is_relative_to(ROOT / "secfad" / "jaxprs")]
    files = (p for p in paths if any(map(found, ast.walk(ast.parse(p.read_text())))))
    return {str(p.relative_to(ROOT)) for p in files}


def test_the_layout_of_equations_is_known_by_their_views():
    words = lambda node: isinstance(node, ast.Constant) and str(node.value) in LAYOUT
    assert outside_the_toolkit(words) <= KNOWS_LAYOUT


def test_programs_are_walked_by_the_toolkit():
    walks = lambda node: isinstance(node, ast.Attribute) and node.attr == "eqns"
    assert outside_the_toolkit(walks) <= WALKS


def test_secagg_knows_no_jax():
    for path in (ROOT / "secagg").rglob("*.py"):
        assert not any(within(name, "jax") for name in imported_names(path)), path


def test_secfad_knows_no_cryptography_and_no_accounting():
    for path in (ROOT / "secfad").rglob("*.py"):
        for name in imported_names(path):
            assert name.split(".")[0] not in {"cryptography", "dp_accounting"}, path


def test_identifiers_of_our_own_are_no_web_addresses():
    # Nobody owns a domain for them, so that anybody could serve what they seem to name.
    for path in sources():
        hosts = re.findall(r"https?://([\w.-]+)", path.read_text())
        assert set(hosts) <= HOSTS, path


def room(package: str, name: str) -> str | None:
    """The room of a module by its full name; None for the package itself."""
    inside = [r for r in ROOMS[package] if within(name, f"{package}.{r}")]
    return max(inside, key=len, default=None)


def loaded_names(path: Path) -> list[str]:
    """Names that a file imports when it is loaded, not those in its functions."""
    tree = ast.parse(path.read_text())
    inside = {n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    return [name for node in ast.walk(tree) if node not in inside for name in names_of(node)]


def arrows(package: str) -> dict[str, set[str]]:
    """Which rooms each room is loaded with."""
    found: dict[str, set[str]] = {r: set() for r in ROOMS[package]}
    for path in (ROOT / package).rglob("*.py"):
        here = room(package, ".".join(path.relative_to(ROOT).with_suffix("").parts))
        if here is not None:
            names = loaded_names(path)
            found[here] |= {r for n in names if (r := room(package, n)) and r != here}
    return found


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_only_from_rooms_before_them(package):
    order = ROOMS[package]
    for here, others in arrows(package).items():
        later = {r for r in others if order.index(r) > order.index(here)}
        assert not later, f"{package}.{here} imports from {later}"


@pytest.mark.parametrize("package", ROOMS)
def test_every_module_has_a_room_and_no_room_is_crowded(package):
    counts: dict[str | None, int] = {}
    for path in (ROOT / package).rglob("*.py"):
        if path.name != "__init__.py":
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            counts[room(package, name)] = counts.get(room(package, name), 0) + 1
    assert None not in counts
    assert max(counts.values()) <= MOST_MODULES


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_have_few_floors(package):
    found = arrows(package)
    floors: dict[str, int] = {}
    for here in ROOMS[package]:
        # Modules without a folder are no floor of their own.
        own = (ROOT / package / here.replace(".", "/")).is_dir()
        floors[here] = own + max((floors[r] for r in found[here] if r in floors), default=0)
    assert max(floors.values()) <= MOST_FLOORS

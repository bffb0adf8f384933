"""The import arrows between packages, and the files that alone may import a sensitive library.

Read from the syntax tree, so imports inside functions count too.
"""

import ast
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
SINGLE_IMPORTERS = {
    "jax.extend": "secfad/_jax.py",
    "jax.interpreters": "secfad/_jax_interpreters.py",
    "jax.core": "secfad/_jax.py",
    "jax._src": "secfad/_jax.py",
    "cryptography": "secagg/crypto/primitives.py",
    "dp_accounting": "privacy/accounting/library_curves.py",
    "drjax": "secfad/interop/drjax.py",
    "flwr": "secfad/engines/flower.py",
}


def imported_names(path: Path) -> list[str]:
    """Every absolute module name a file imports, with `from a import b` as both `a` and `a.b`."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names += [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
    return names


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


@pytest.mark.parametrize("module", SINGLE_IMPORTERS)
def test_sensitive_libraries_have_one_importer(module):
    allowed = ROOT / SINGLE_IMPORTERS[module]
    for path in sources():
        if path != allowed:
            for name in imported_names(path):
                assert not within(name, module), f"{path.relative_to(ROOT)} imports {name}"


def test_secagg_knows_no_jax():
    for path in (ROOT / "secagg").rglob("*.py"):
        assert not any(within(name, "jax") for name in imported_names(path)), path


def test_secfad_knows_no_cryptography_and_no_accounting():
    for path in (ROOT / "secfad").rglob("*.py"):
        for name in imported_names(path):
            assert name.split(".")[0] not in {"cryptography", "dp_accounting"}, path

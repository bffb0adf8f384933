"""A file that cannot be used is its author's business: exit code 2 and a line, never a traceback."""

import pytest

from audits.commands.cli import UNUSABLE

FILE = """
import jax
import jax.numpy as jnp
import secfad as fad

@fad.computation(model=fad.SERVER, batch=fad.CLIENTS)
def loss(model, batch):
    return fad.mean(jnp.sum((batch - fad.broadcast(model)) ** 2), name="loss")

@fad.computation(model=fad.SERVER, batch=fad.CLIENTS)
def misspelt(model, batch):
    return jnp.summ(model)

@fad.computation(model=fad.SERVER, batch=fad.CLIENTS)
def failing(model, batch):
    raise RuntimeError("no such data")

wrong_shape = words = short = loss

@fad.computation(model=fad.SERVER, batch=fad.CLIENTS)
def made(model, batch):
    return fad.sum(batch)

def made_specs():
    raise KeyError("nothing here")

spec = jax.ShapeDtypeStruct((3,), "float32")
SPECS = {
    "loss": (spec, 1.0), "misspelt": (spec, spec), "failing": (spec, spec), "short": (spec,),
    "wrong_shape": (spec, jax.ShapeDtypeStruct((4,), "float32")), "words": ("one", "two"),
}
"""
CASES = [
    ("misspelt", "`misspelt` failed at line 12 with AttributeError"),
    ("failing", "`failing` failed at line 16 with RuntimeError: no such data. Check"),
    ("made", "`made_specs()` failed with KeyError"),
    ("words", "Expected arrays in argument `model`, got a str"),
    ("short", "Expected the shapes of (model, batch)"),
    ("absent", "Expected a computation `absent`, got a file with `loss`, `misspelt`"),
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize("name", ["certify", "modes"])
@pytest.mark.parametrize(("target", "words"), CASES)
def test_what_is_wrong_with_the_file_is_said(command, file, name, target, words):
    code, out, err = command(name, f"{file}:{target}")
    assert code == UNUSABLE
    assert words in out + err
    assert str(file) in out + err
    assert "bug in secfad" not in err


def test_shapes_that_do_not_fit_are_named_with_the_line(command, file):
    code, _, err = command("modes", f"{file}:wrong_shape")
    assert code == UNUSABLE
    assert "model.py:8:" in err
    assert "`loss` cannot be traced: sub got incompatible shapes" in err


@pytest.mark.parametrize("name", ["certify", "modes"])
def test_a_file_that_ends_the_process_ends_no_command(command, tmp_path, name):
    path = tmp_path / "script.py"
    path.write_text("raise SystemExit(3)")
    code, out, err = command(name, f"{path}:f")
    assert code == UNUSABLE
    assert "SystemExit" in out + err


def test_numbers_are_shapes_too(command, file):
    assert command("modes", f"{file}:loss")[0] == 0
    assert command("certify", f"{file}:loss", "--mode", "primal")[0] == 0

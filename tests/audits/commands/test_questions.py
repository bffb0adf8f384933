"""What `secfad certify` can be asked about one program: each option, and each wrong use of it."""

import json

import pytest

import secfad as fad
from audits.commands import requests
from audits.transfer.labels import constant_digest
from privacy.certificates.certificates import Certificate

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DrJAX asks for an old mesh
MODEL = """
import drjax
import jax
import jax.numpy as jnp
import numpy as np
import secfad as fad

TABLE = np.arange(3.0, dtype="float32")
KEY = jax.random.key(0)
vector, scalar = jax.ShapeDtypeStruct((3,), "float32"), jax.ShapeDtypeStruct((), "float32")
batch = {"x": jax.ShapeDtypeStruct((3,), "float32"), "y": scalar}
batches = {"x": jax.ShapeDtypeStruct((8, 3), "float32"), "y": jax.ShapeDtypeStruct((8,), "float32")}

@fad.computation(rate=fad.SERVER, model=fad.SERVER, batch=fad.CLIENTS)
def loss(rate, model, batch):
    sent = fad.broadcast(rate * model["w"], name="model")
    return fad.mean((batch["x"] @ sent - batch["y"]) ** 2, name="loss")

@fad.computation(x=fad.CLIENTS)
def looked_up(x):
    return fad.sum(x * TABLE, name="total")

@fad.computation(x=fad.CLIENTS)
def counted(x):
    return fad.sum((x > 0).astype(int), name="counts")

@fad.computation(model=fad.SERVER, x=fad.CLIENTS)
def leaky(model, x):
    return fad.sum(model * x, name="total")

def stacked(model, batch):
    errors = batch["x"] @ model["w"] - batch["y"]
    return jnp.sum(errors ** 2, axis=0) / errors.shape[0]

def stacked_median(model, batch):
    return jnp.median(batch["y"]) + model["w"]

@drjax.program(placements={"clients": 8})
def rows(model, batch):
    error = lambda w, b: jnp.tanh(b["x"] @ w["w"] - b["y"])
    return drjax.reduce_mean(drjax.map_fn(error, (drjax.broadcast(model), batch)))

@drjax.program(placements={"clients": 8})
def rows_leaky(model, batch):
    return model["w"] + jnp.sum(batch["x"], axis=0)

def per_client(model, batch):
    return jax.lax.psum(jnp.tanh(batch["x"] @ model["w"] - batch["y"]), "clients")

SPECS = {
    "loss": (scalar, {"w": vector}, batch), "looked_up": (vector,), "counted": (vector,),
    "leaky": (vector, vector), "stacked": ({"w": vector}, batches),
    "stacked_median": ({"w": vector}, batches), "rows": ({"w": vector}, batches),
    "rows_leaky": ({"w": vector}, batches), "per_client": ({"w": vector}, batch),
}
"""
DP = ("--dp", "--clip-norm", "loss=0.5", "--noise-multiplier", "1.2")


@pytest.fixture
def model(tmp_path, monkeypatch):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    for path in (tmp_path / "model.py", tmp_path / "package" / "asked.py"):
        path.write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def verdicts(out):
    return [line.split(":")[0] for line in out.splitlines() if ": certified" in line]


def test_name_of_an_importable_module_is_a_target(command, model):
    code, out, err = command("certify", "package.asked:loss", "--mode", "primal")
    assert code == 0, out + err
    assert verdicts(out) == ["loss (primal)"]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("package.absent:loss", "package.absent: Loading failed with ModuleNotFoundError"),
        ("package.asked:absent", "Expected a computation `absent`, got a file with `loss`"),
        ("package.asked", "Expected FILE.py:NAME or package.module:NAME, got 'package.asked'"),
        ("absent.py:loss", "absent.py: Expected a Python file, got none"),
    ],
)
def test_target_that_is_not_there_is_named(command, model, target, words):
    code, out, err = command("certify", target)
    assert code == 2
    assert words in out + err


def test_modes_are_chosen_together(command, model):
    code, out, _ = command("certify", "model.py:loss", "--mode", "forward", "--mode", "factored")
    assert code == 0
    assert [v.split("(")[1] for v in verdicts(out)] == ["primal)", "forward)", "factored)"]


def test_arguments_of_the_derivative_are_named(command, model):
    """The oracle: a gradient by `model` alone has other messages than one by both arguments."""
    certificates = []
    for wrt in (["--wrt", "model"], ["--wrt", "rate", "--wrt", "model"], ["--wrt", "rate,model"]):
        file = model / "c.json"
        options = ("--mode", "mixed", *wrt, "--certificate", file)
        assert command("certify", "model.py:loss", *options)[0] == 0
        certificates.append(Certificate.from_json(file.read_text()))
        assert command("verify", file, "--program", "model.py:loss", *wrt)[0] == 0
    one, both, again = certificates
    assert one.digests["mixed"] != both.digests["mixed"]
    assert both.digests == again.digests


def test_certificate_of_other_arguments_is_not_verified(command, model):
    file = model / "c.json"
    asked = ("--mode", "forward", "--wrt", "model", "--certificate", file)
    assert command("certify", "model.py:loss", *asked)[0] == 0
    code, _, err = command("verify", file, "--program", "model.py:loss", "--wrt", "rate")
    assert code == 1
    assert "FAD006" in err


def test_computation_is_privatized_and_certified(command, model):
    file = model / "c.json"
    code, out, err = command("certify", "model.py:loss", *DP, "--certificate", file)
    assert code == 0, out + err
    found = Certificate.from_json(file.read_text())
    assert found.profile == "secagg+dp"
    assert found.bounds["primal"][0].norm == 0.5
    assert found.mechanism["noise_multiplier"] == 1.2
    assert command("verify", file, "--program", "model.py:loss")[0] == 0


def test_private_gradient_is_certified_in_one_mode(command, model):
    file = model / "c.json"
    asked = ("--mode", "forward", "--wrt", "model")
    norms = ("--dp", "--clip-norm", "1.5", "--noise-multiplier", "2")
    code, out, err = command("certify", "model.py:loss", *norms, *asked, "--certificate", file)
    assert code == 0, out + err
    assert Certificate.from_json(file.read_text()).profile == "secagg+dp"
    assert command("verify", file, "--program", "model.py:loss", *asked)[0] == 0
    assert command("verify", file, "--program", "model.py:loss")[0] == 1


def test_leak_is_rejected_before_it_is_privatized(command, model):
    code, out, _ = command(
        "certify", "model.py:leaky", "--dp", "--clip-norm", "1", "--noise-multiplier", "1"
    )
    assert code == 1
    assert "FAD102" in out


def test_public_array_is_named_or_given_by_its_digest(command, model):
    code, out, _ = command("certify", "model.py:looked_up")
    assert code == 1
    import numpy as np

    digest = constant_digest(np.arange(3.0, dtype="float32"))
    assert digest in out
    for public in ("TABLE", digest):
        assert command("certify", "model.py:looked_up", "--public", public)[0] == 0


@pytest.mark.parametrize("target", ["rows", "per_client"])
def test_array_program_is_certified_with_trees(command, model, target):
    style = "drjax" if target == "rows" else "spmd"
    asked = ("--style", style, "--clients", "batch")
    file = model / "c.json"
    options = ("--mode", "reverse", "--certificate", file)
    code, out, err = command("certify", f"model.py:{target}", *asked, *options)
    assert code == 0, out + err
    assert verdicts(out)[0].endswith("(as written)")
    found = Certificate.from_json(file.read_text())
    assert (found.cohort.minimum, found.cohort.maximum) == (8, 8)
    assert set(found.digests) == {"primal", "reverse"}
    assert command("verify", file, "--program", f"model.py:{target}", *asked)[0] == 0


def test_projection_with_other_sums_than_the_program_is_not_certified(command, model, monkeypatch):
    """Two readings of one program must agree; here the second one reads another program."""
    read = requests.project

    def another(fn, args, *, style):
        computation, specs = read(fn, args, style=style)
        doubled = fad.computation(model=fad.SERVER, batch=fad.CLIENTS)(
            lambda model, batch: (computation.fun(model, batch), fad.sum(batch["y"], name="more"))
        )
        return doubled, specs

    monkeypatch.setattr(requests, "project", another)
    asked = ("--style", "spmd", "--clients", "batch", "--mode", "primal")
    code, out, err = command("certify", "model.py:per_client", *asked, "--certificate", "c.json")
    assert code == 2
    assert "Expected the sums of the program" in out + err
    assert not (model / "c.json").exists()


def test_array_program_is_privatized(command, model):
    asked = ("--style", "spmd", "--clients", "batch")
    file = model / "c.json"
    norms = ("--dp", "--clip-norm", "1", "--noise-multiplier", "1")
    code, out, err = command(
        "certify", "model.py:per_client", *asked, *norms, "--certificate", file
    )
    assert code == 0, out + err
    assert Certificate.from_json(file.read_text()).profile == "secagg+dp"


def test_stacked_program_is_checked_in_its_modes(command, model):
    code, out, err = command(
        "certify",
        "model.py:stacked",
        "--style",
        "stacked",
        "--clients",
        "batch",
        "--mode",
        "forward",
    )
    assert code == 0, out + err
    assert [v.split("(")[1] for v in verdicts(out)] == ["primal)", "forward)"]


@pytest.mark.parametrize(
    ("target", "style", "hint"),
    [
        ("stacked_median", "stacked", "= natively: a bisection"),
        ("rows_leaky", "drjax", "fad.sum(g"),
    ],
)
def test_rejected_array_program_shows_the_native_line(command, model, target, style, hint):
    code, out, _ = command("certify", f"model.py:{target}", "--style", style, "--clients", "batch")
    assert code == 1
    assert hint in out


WRONG = [
    (["model.py:loss", "--mode", "sideways"], "Expected modes among all, primal"),
    (["model.py:loss", "--wrt", "weights"], "in --wrt, which are rate, model, batch, got weights"),
    (["model.py:loss", "--dp"], "Expected --clip-norm and --noise-multiplier with --dp"),
    (["model.py:loss", "--dp", "--clip-norm", "1"], "Expected --clip-norm and --noise-multiplier"),
    (["model.py:loss", "--clip-norm", "1"], "Expected --dp with --clip-norm"),
    (["model.py:loss", "--noise-multiplier", "1"], "Expected --dp with --clip-norm"),
    (["model.py:loss", *DP, "--clip-norm", "2"], "Expected one clip norm, or one for each sum"),
    (["model.py:loss", *DP[:2], "loss=big", *DP[3:]], "Expected a clip norm as NUMBER"),
    (["model.py:loss", *DP[:2], "other=1", *DP[3:]], "model.py: "),
    (["model.py:loss", *DP[:2], "-1", *DP[3:]], "clip_norm"),
    (["model.py:counted", *DP[:2], "1", *DP[3:]], "Expected floating-point contributions"),
    (["model.py:loss", *DP, "--mode", "forward"], "Add --wrt ARGUMENT"),
    (["model.py:loss", *DP, "--mode", "forward", "--mode", "mixed"], "Expected one mode with --dp"),
    (["model.py:loss", "--style", "sideways"], "sideways"),
    (["model.py:loss", "--clients", "batch"], "Expected --clients with --style"),
    (["model.py:loss", "--style", "spmd", "--clients", "batch"], "leave out --style"),
    (["model.py:stacked"], "Expected `stacked` to be a computation, got a function"),
    (["model.py:stacked", "--style", "stacked"], "Add --clients ARGUMENT"),
    (["model.py:stacked", "--style", "stacked", "--clients", "data"], "in --clients, which are"),
    (
        ["model.py:stacked", "--style", "stacked", "--clients", "batch", "--mode", "mixed"],
        "Expected modes among primal, forward, reverse for a stacked program",
    ),
    (
        ["model.py:stacked", "--style", "stacked", "--clients", "batch", *DP],
        "with --dp, got a stack",
    ),
    (
        [
            "model.py:stacked",
            "--style",
            "stacked",
            "--clients",
            "batch",
            "--mode",
            "primal",
            "--certificate",
            "c.json",
        ],
        "for a certificate, got a stacked one",
    ),
    (["model.py:looked_up", "--public", "ABSENT"], "Expected an array of the module or a digest"),
    (["model.py:looked_up", "--public", "KEY"], "A key is not public"),
    (["model.py:looked_up", "--public", "SPECS"], "Expected arrays or digests in `public`"),
    (["model.py:loss", "--sign", "absent.pem"], "Expected a file for the signed certificate"),
    (["model.py:loss", "--update-baseline"], "Add --baseline FILE"),
    (["model.py:loss", "--baseline", "absent.json"], "Expected a baseline in absent.json"),
    ([], "Expected FILE.py:NAME, such as model.py:round_loss, or --all"),
    (["--all", "model.py:loss"], "Expected --all without a program"),
    (["--all", "--wrt", "model"], "Expected --all without a program and options of one"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG)
def test_wrong_question_is_exit_code_2_and_says_what_to_ask(command, model, arguments, words):
    code, out, err = command("certify", *arguments)
    assert code == 2, out + err
    text = " ".join((out + err).replace("│", " ").split())
    assert words in text
    assert "bug in secfad" not in text
    assert not (model / "c.json").exists()


def test_reports_of_questions_are_json(command, model):
    asked = ("--style", "spmd", "--clients", "batch", "--mode", "primal", "--format", "json")
    code, out, _ = command("certify", "model.py:per_client", *asked)
    assert code == 0
    assert list(json.loads(out)) == ["as written", "primal"]

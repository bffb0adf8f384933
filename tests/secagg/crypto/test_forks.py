"""A forked child never repeats its parent's secrets, whatever its process id is."""

import os
import shutil
import subprocess
import sys

import pytest

from secagg import LocalProtocolError, Parameters, SecureStream
from secagg.crypto import forks

fork_only = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def in_child(work):
    """What `work` gives in a forked child, as bytes."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, work())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        found = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return found


@fork_only
def test_parent_children_and_grandchildren_draw_different_bytes(monkeypatch):
    stream = SecureStream()
    stream.bytes(5)
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in PID namespaces of their own
    drawn = [
        in_child(lambda: stream.bytes(16)),
        in_child(lambda: stream.bytes(16)),
        in_child(lambda: in_child(lambda: stream.bytes(16))),
        stream.bytes(16),
    ]
    assert len(set(drawn)) == 4


@fork_only
def test_a_child_is_noticed_even_where_the_hook_did_not_run(monkeypatch):
    """A fork by other code than the interpreter's: then the process id tells."""
    stream, twin = SecureStream(b"s" * 16), SecureStream(b"s" * 16)
    stream.deterministic = twin.deterministic = False
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert stream.bytes(16) != SecureStream(b"s" * 16).bytes(16)
    assert stream.bytes(16) != twin.bytes(16)


@fork_only
def test_a_deterministic_stream_goes_on_in_a_child():
    stream = SecureStream(b"s" * 16)
    stream.bytes(3)
    twin = SecureStream(b"s" * 16)
    twin.bytes(3)
    assert in_child(lambda: stream.bytes(16)) == twin.bytes(16)


@fork_only
def test_generations_differ_in_a_child_with_the_same_process_id(monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)
    before = forks.generation()
    assert in_child(lambda: b"new" if forks.generation() != before else b"old") == b"new"
    assert forks.generation() == before


@fork_only
def test_a_client_does_not_answer_in_two_processes(new_round):
    """Else one mask would hide two vectors, and both kinds of a share could be had."""
    game = new_round(Parameters(clients=3, length=2))
    game.deliver()
    answer = game.close()[0]

    def try_both():
        refused = 0
        for work in (lambda: game.clients[0].receive(answer), lambda: game.clients[0].advertise()):
            try:
                work()
            except LocalProtocolError as error:
                refused += "got a fork of it" in str(error)
        return bytes([refused])

    assert in_child(try_both) == b"\x02"
    assert len(game.clients[0].receive(answer)) > 0


NAMESPACES = r"""
import ctypes, os
from privacy.noise.samplers import discrete_gaussian
from secagg import SecureStream

libc = ctypes.CDLL(None, use_errno=True)
stream = SecureStream()
stream.bytes(1)
assert libc.unshare(0x20000000) == 0  # CLONE_NEWPID: children are process 1 of a new namespace
child = os.fork()
if child:
    os.waitpid(child, 0)
noise = " ".join(map(str, discrete_gaussian(1e6, (8,), stream)))
os.write(1, f"{'parent' if child else os.getpid()} {noise}\n".encode())
os._exit(0)
"""


def test_noise_differs_between_two_processes_that_are_both_process_one():
    """A process 1 of one PID namespace whose child is process 1 of another."""
    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid() != 0:
        pytest.skip("needs root and the unshare command for PID namespaces")
    command = [unshare, "--pid", "--fork", sys.executable, "-c", NAMESPACES]
    if subprocess.run([unshare, "--pid", "--fork", "true"], check=False).returncode:
        pytest.skip("this machine does not give PID namespaces")
    asked = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = sorted(asked.stdout.splitlines())
    assert [line.split(" ", 1)[0] for line in lines] == ["1", "parent"]
    assert lines[0].split(" ", 1)[1] != lines[1].split(" ", 1)[1]

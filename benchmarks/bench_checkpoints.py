"""What does a durable checkpoint cost, ours and Orbax's?

Expected: ours is one file and takes single milliseconds, most of them waiting for the disk; Orbax, which is
not a dependency (pip install orbax-checkpoint), writes a folder and takes tens of milliseconds.

    python benchmarks/bench_checkpoints.py [--numbers 1220] [--saves 20] [--folder .]

Prints one JSON line: median milliseconds of a save, files of one checkpoint. The folder decides what
fsync costs: use a disk, not a memory file system.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from privacy.training.checkpoints import Checkpoint, CheckpointFile


def timed(save: Callable[[int], None], saves: int, folder: Path) -> dict:
    """Milliseconds and files; the first save warms up."""
    seconds = []
    for number in range(saves + 1):
        begin = time.perf_counter()
        save(number)
        seconds.append(time.perf_counter() - begin)
    files = sum(path.is_file() for path in folder.rglob("*"))
    return {"median_ms": round(1e3 * statistics.median(seconds[1:]), 2), "files": files}


def own(state: dict, saves: int, folder: Path) -> dict:
    file = CheckpointFile(folder / "checkpoint.npz")
    return timed(lambda n: file.write(Checkpoint("bench", n, state, "ab" * 32)), saves, folder)


def orbax(state: dict, saves: int, folder: Path) -> dict:
    """Saves with the ledger's head as a second item, keeping the newest checkpoint."""
    import orbax.checkpoint as ocp  # type: ignore[import-not-found]

    options = ocp.CheckpointManagerOptions(max_to_keep=1)
    with ocp.CheckpointManager(folder, options=options) as manager:

        def save(number: int) -> None:
            items = ocp.args.Composite(
                state=ocp.args.StandardSave(state), head=ocp.args.JsonSave({"head": "ab" * 32})
            )
            manager.save(number, args=items)
            manager.wait_until_finished()

        result = timed(save, saves, folder)
    return result | {"version": importlib.metadata.version("orbax-checkpoint")}


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--numbers", type=int, default=1220)
    parser.add_argument("--saves", type=int, default=20)
    parser.add_argument("--folder", default=".")
    options = parser.parse_args(arguments)
    state = {"model": np.zeros(options.numbers, np.float32), "round": np.int32(0)}
    runs = {"own": own}
    if importlib.util.find_spec("orbax") is not None:
        runs["orbax"] = orbax
    result = {"numbers": options.numbers}
    for name, run in runs.items():
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            result[name] = run(state, options.saves, Path(folder).resolve())
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()

"""What does a charge cost, and does it grow with the ledger? How fast is exact noise?

Expected: reserve + open + commit, three durable appends, take single milliseconds and the median is the
same for 10 entries and for 100,000; `spent` and `secfad ledger show`, its curve
included, take under 3 s on 100,000 entries; discrete Gaussian
draws come at more than 5 million per second on one core.

    python benchmarks/bench_ledger.py [--entries 100000] [--charges 200] [--draws 5000000] [--folder .]

Prints one JSON line. The folder decides what fsync costs: use a disk, not a memory file system.
"""

import argparse
import json
import platform
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from audits.commands.ledgers import curve, overview
from privacy import Budget, Ledger, Release, Slot
from privacy.ledger.spending import spending
from privacy.noise.samplers import discrete_gaussian
from secagg.crypto.streams import SecureStream

RELEASE = Release("delta", clip_norm=1.0, sensitivity=1.0, noise_std=50.0)
SLOTS = [Slot("training", 0.001, 50.0, 1_000_000), Slot("evaluation", 0.002, 40.0, 100_000)]


def charge(ledger: Ledger, number: int) -> list[float]:
    """Seconds of each step of one charge."""
    times = [time.perf_counter()]
    draw = ledger.reserve(
        purpose="training",
        sampling_rate=0.001,
        releases=[RELEASE],
        run_id="bench",
        round=number,
        cohort_id=f"cohort {number}",
    )
    times.append(time.perf_counter())
    draw.open()
    times.append(time.perf_counter())
    draw.commit("00" * 32, survivors=100)
    times.append(time.perf_counter())
    return list(np.diff(times))


def milliseconds(samples: list[list[float]]) -> dict:
    """Median and 95th percentile, per append and per whole charge."""
    appends, whole = np.array(samples), np.sum(samples, axis=1)
    return {
        "append_median": round(float(np.median(appends)) * 1e3, 3),
        "append_p95": round(float(np.quantile(appends, 0.95)) * 1e3, 3),
        "reserve_open_commit_median": round(float(np.median(whole)) * 1e3, 3),
    }


def fill(ledger: Ledger, start: int, entries: int) -> int:
    """Adds records, without waiting for the disk, until there are `entries`; returns the round."""
    ledger.store.reader().execute("PRAGMA synchronous = OFF")
    while ledger.store.last().seq + 1 < entries:
        charge(ledger, start)
        start += 1
    ledger.store.reader().execute("PRAGMA synchronous = EXTRA")
    return start


def bench_ledger(folder: Path, entries: int, charges: int) -> dict:
    """Charges and reads at three sizes of one ledger."""
    result, number = {}, 0
    sizes = sorted({10, min(1000, entries), entries})
    with Ledger.create(folder / "l.db", Budget(8, 1e-6), population=10**6, slots=SLOTS) as ledger:
        for size in sizes:
            number = fill(ledger, number, size)
            samples = [charge(ledger, number + step) for step in range(charges)]
            number += charges
            result[f"charge_ms_at_{size}"] = milliseconds(samples)
        result["entries"] = ledger.store.last().seq + 1
        for name, read in (
            ("spent_s", ledger.spent),
            ("spent_server_s", lambda: ledger.spent("server")),
            ("find_round_s", lambda: ledger.find("bench", number - 1)),
            ("verify_s", ledger.verify),
            ("show_s", lambda: (overview(ledger), curve(spending(ledger), ledger.charter.budget))),
        ):
            begin = time.perf_counter()
            read()
            result[name] = round(time.perf_counter() - begin, 4)
    result["bytes_per_entry"] = round((folder / "l.db").stat().st_size / result["entries"])
    return result


def bench_samplers(draws: int) -> dict:
    """Millions of exact draws per second, best of three."""
    stream, result = SecureStream(), {}
    for sigma in (4.0, 1000.0, 1e6):
        seconds = []
        for _ in range(3):
            begin = time.perf_counter()
            discrete_gaussian(sigma, draws, stream)
            seconds.append(time.perf_counter() - begin)
        result[f"sigma_{sigma:g}"] = round(draws / min(seconds) / 1e6, 2)
    return result


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--charges", type=int, default=200)
    parser.add_argument("--draws", type=int, default=5_000_000)
    parser.add_argument("--folder", default=".")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        result = bench_ledger(Path(folder), options.entries, options.charges)
    result["million_draws_per_s"] = bench_samplers(options.draws)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    result["commit"] = commit.stdout.strip()
    result["python"], result["machine"] = platform.python_version(), platform.machine()
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()

"""Run the suite as on other processors: `make test-portable`, or `python tests/portable.py [tests/PART ...]`.

A processor decides which kernels the libraries choose, and with them the last bits of a sum; threads cut sums
into parts; the hash seed orders sets of strings. Six runs cover every pair of

    kernels    of SSE (no fused multiply-add), of AVX2, and those that the libraries choose here
    threads    1 and 2
    hash seed  0 and 1

and in one more, products round by where their factors lie (`layout_sensitive.py`): it finds equal bits
that are asked of unequal layouts, on any processor. Each run says one line; what failed is in
`runs/portable/`. The whole takes about 40 minutes on two cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOGS = ROOT / "runs" / "portable"
# Of ATen's own loops, of MKL's products and of oneDNN's.
KERNELS = {
    "sse": {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "own": {},
}
RUNS = [
    ("sse", 1, 0),
    ("sse", 2, 1),
    ("avx2", 1, 1),
    ("avx2", 2, 0),
    ("own", 1, 0),
    ("own", 2, 1),
]


def run(name: str, threads: int, environment: dict[str, str], arguments: list[str]) -> bool:
    """Run pytest once, say how it ended in one line, and return whether all passed."""
    chosen = {key for kernels in KERNELS.values() for key in kernels}
    clean = {key: value for key, value in os.environ.items() if key not in chosen}
    command = [sys.executable, "-m", "pytest", f"--numprocesses={os.cpu_count()}", "--dist=worksteal"]
    # Threads that wait asleep leave the cores to the other workers: half the time of one worker alone.
    threading = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    start, log = time.monotonic(), LOGS / f"{name.replace(' ', '-')}.log"
    with log.open("w") as stream:
        ended = subprocess.run(
            [*command, *arguments],
            cwd=ROOT,
            env=clean | {"PYTHONPATH": str(ROOT / "tests")} | threading | environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    lines = log.read_text().splitlines()
    failed = sum(line.startswith(("FAILED", "ERROR")) for line in lines)
    ok = ended.returncode == 0
    said = "ok" if ok else f"{failed} failed, see {log.relative_to(ROOT)}"
    print(f"{name:36s} {time.monotonic() - start:6.0f} s  {said}", flush=True)
    return ok


def main(arguments: list[str]) -> int:
    LOGS.mkdir(parents=True, exist_ok=True)
    passed = [
        run(f"{kernels} kernels {threads} threads hash {seed}", threads, environment, arguments)
        for kernels, threads, seed in RUNS
        for environment in [KERNELS[kernels] | {"PYTHONHASHSEED": str(seed)}]
    ]
    # The killed process of this test rounds as the processor does, not by layout.
    killed = "test_kill_9_and_the_same_call_again_is_the_run_that_was_not_killed"
    layout = ["-p", "layout_sensitive", f"--deselect=tests/training/test_trainer.py::{killed}"]
    passed.append(run("own kernels by layout", 1, {}, [*layout, *arguments]))
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

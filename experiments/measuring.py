"""What benchmarks share: clocks, memory, processes of their own, and how their tables are written."""

from __future__ import annotations

import multiprocessing
import platform
import resource
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from deltatheory.results import provenance, write_atomically, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def interleaved(
    functions: Mapping[str, Callable[[], object]], repetitions: int, cuda: bool = False
) -> dict[str, float]:
    """Return median seconds of functions that take turns: a machine that drifts drifts for all of them.

    The first round does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for repetition in range(repetitions + 1):
        for name, function in functions.items():
            took = wall(function, cuda)
            if repetition:
                seconds[name].append(took)
    return {name: median(values) for name, values in seconds.items()}


def wall(function: Callable[[], object], cuda: bool = False) -> float:
    """Return the seconds that a call takes by the clock, its kernels on the GPU included."""
    began = time.perf_counter()
    function()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def work(function: Callable[[], object], cuda: bool) -> float:
    """Return a call's seconds: of the processor, where other work does not count, or on CUDA by the clock."""
    if cuda:
        return wall(function, cuda)
    began = time.process_time()
    function()
    return time.process_time() - began


def peak_bytes(cuda: bool) -> int:
    """Return the high-water mark of this process's memory, or of what was allocated on the GPU."""
    if cuda:
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors that operations under it make, while they live.

    Attributes:
        most: of those that lived at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.most = self._now = 0
        self._made: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        lent = tree_iter(() if func is torch.ops.aten.lift_fresh.default else (args, kwargs))  # of numpy: new
        given = {x.untyped_storage()._cdata for x in lent if isinstance(x, Tensor)}
        for x in tree_iter(out):
            storage = x.untyped_storage() if isinstance(x, Tensor) else None
            if storage is not None and storage._cdata not in given | self._made:
                self._made.add(storage._cdata)
                self._now += storage.nbytes()
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        self.most = max(self.most, self._now)
        return out

    def _gone(self, made: int, size: int) -> None:
        self._made.discard(made)
        self._now -= size


def in_child(measure: Callable[[], dict]) -> dict:
    """Run a measurement in a forked process: its memory is its own, what is loaded is there.

    Raises:
        EOFError: where it fails; it has said why.
    """
    reader, writer = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=lambda: writer.send(measure()))
    child.start()
    writer.close()
    result = reader.recv()
    child.join()
    return result


def processor() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()


def write(path: Path, values: dict[str, Any], text: str, figure: Figure | None = None) -> None:
    """Write PATH.json with the provenance, PATH.md and, of a figure, PATH.png; show the table."""
    write_json(path.with_suffix(".json"), {**values, "provenance": provenance()})
    write_atomically(path.with_suffix(".md"), text.rstrip() + "\n")
    if figure:
        image = BytesIO()
        figure.savefig(image, format="png", dpi=130, bbox_inches="tight")
        write_atomically(path.with_suffix(".png"), image.getvalue())
    print(text)

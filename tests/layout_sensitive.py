"""A processor whose products round by where their factors lie: `pytest -p layout_sensitive`.

Libraries choose their kernels, and with them the order of a sum, by shape, strides, alignment and processor.
Here every product and sum of floats is off by up to two units in the last place (in half precision, where
sums are formed in float32, by one), as a hash of shapes, strides and alignment decides. The same operation on
the same layout still gives the same bits. So a test that asks bit equality of anything else fails here,
whatever the processor it runs on.
"""

from __future__ import annotations

import warnings
import zlib

import torch

aten = torch.ops.aten
OPERATIONS = {
    "mm": aten.mm.out,
    "bmm": aten.bmm.out,
    "mv": aten.mv.out,
    "addmm": aten.addmm.out,
    "baddbmm": aten.baddbmm.out,
    "addmv": aten.addmv.out,
    "sum.dim_IntList": aten.sum.IntList_out,
}
_library = torch.library.Library("aten", "IMPL")


def _place(x: object) -> object:
    if isinstance(x, torch.Tensor):
        return tuple(x.shape), x.stride(), x.data_ptr() % 64 if x.numel() else 0
    return x


def _rounded(result: torch.Tensor, *arguments: object) -> torch.Tensor:
    """Return a result with the last bits that this layout has."""
    seed = zlib.crc32(repr([_place(x) for x in arguments]).encode())
    unit, most = torch.finfo(result.dtype).eps, 1 if result.dtype.itemsize < 4 else 2
    places = torch.arange(result.numel()).view(result.shape) * 7 + seed % 101
    steps = (places % (2 * most + 1) - most).to(result.dtype)
    steps[result == result.round()] = 0  # sums of whole numbers are exact everywhere
    return result.mul_(1 + unit * steps)


def _operation(out):
    def operation(*arguments, **keywords):
        like = next(x for x in arguments if isinstance(x, torch.Tensor))
        dtype = keywords.pop("dtype", None) or (like.dtype if like.is_floating_point() else torch.int64)
        result = out(*arguments, **keywords, out=like.new_empty(0, dtype=dtype))
        return _rounded(result, *arguments) if dtype.is_floating_point else result

    return operation


def pytest_configure() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a kernel is overridden is what this is for
        for name, out in OPERATIONS.items():
            _library.impl(name, _operation(out), "CPU")

"""Several devices on a machine that has none: tensors of the CPU that say they are elsewhere.

A storage is on the CPU or, where it was moved or made there, on a device of another name. An operation on
tensors of two devices fails as on real ones, `to` copies, and copies between devices are written down.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C import _functorch  # type: ignore[attr-defined]
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Copy", "FakeDevices", "fake_devices"]

CPU = torch.device("cpu")
ANYWHERE = torch.device("meta")  # made by torch itself, within an operation: where its first partner is
_FACTORIES = ("arange", "as_tensor", "empty", "eye", "from_numpy", "full", "linspace", "ones", "rand")
_FACTORIES += ("randint", "randn", "randperm", "tensor", "zeros")
_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")
_BETWEEN = ("copy_",)


class Copy(NamedTuple):
    """What went from one device to another."""

    shape: tuple[int, ...]
    source: str
    target: str


class FakeDevices:
    """Which storages are where, and what was copied."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[StorageWeakRef, torch.device]] = {}
        self.copies: list[Copy] = []
        self.arriving: torch.device | None = None

    def of(self, x: Tensor) -> torch.device:
        with torch._C.DisableTorchFunction():
            while _functorch.is_functorch_wrapped_tensor(x):
                x = _functorch.get_unwrapped(x)
            return self._places.get(x.untyped_storage()._cdata, (None, CPU))[1]

    def knows(self, x: Tensor) -> bool:
        return x.untyped_storage()._cdata in self._places and self.of(x) != ANYWHERE

    def put(self, x: Tensor, device: torch.device) -> None:
        storage = x.untyped_storage()
        self._places[storage._cdata] = StorageWeakRef(storage), device

    @contextmanager
    def made_at(self, device: torch.device) -> Iterator[None]:
        before, self.arriving = self.arriving, device
        try:
            yield
        finally:
            self.arriving = before

    def moved(self, x: Tensor, device: torch.device) -> Tensor:
        source = self.of(x)
        if source == device:
            return x
        moved: Any = _Move.apply(x, self, device, source)
        return moved


class _Move(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, devices: FakeDevices, target: torch.device, source: torch.device) -> Tensor:
        devices.copies.append(Copy(tuple(x.shape), str(source), str(target)))
        with devices.made_at(target):
            return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _, ctx.devices, ctx.target, ctx.source = inputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple:
        return _Move.apply(gradients[0], ctx.devices, ctx.source, ctx.target), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return _Move.apply(tangents[0], ctx.devices, ctx.target, ctx.source)


class _Operations(TorchDispatchMode):
    """Refuses operations over two devices; what comes out of one is where what went in is."""

    def __init__(self, devices: FakeDevices) -> None:
        super().__init__()
        self.devices = devices

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, devices = kwargs or {}, self.devices
        with torch._C.DisableTorchFunction():
            name = func._schema.name.partition("::")[2]
            given = list(_tensors((args, *kwargs.values())))
            if name in _INDEXING:  # indices may be on the CPU
                given = [args[0], *(x for x in given if x is not args[0] and devices.of(x) != CPU)]
            places = {devices.of(x) for x in given if x.ndim or devices.of(x) != CPU} - {ANYWHERE}
            if len(places) > 1 and name not in _BETWEEN:
                found = ", ".join(sorted(map(str, places)))
                raise RuntimeError(
                    f"{func}: Expected all tensors to be on the same device, but found {found}"
                )
            out = func(*args, **kwargs)
            numbers = CPU if any(devices.of(x) == CPU for x in given) else ANYWHERE
            place = next(iter(places), numbers)
            made = list(_tensors(out))
            if devices.arriving:
                for x in made:
                    devices.put(x, devices.arriving)
            for x in [*made, *given]:
                if not devices.knows(x):
                    devices.put(x, place)
            return out


class _Calls(TorchFunctionMode):
    """Lets `to`, `device=` and `x.device` speak of devices that are not there."""

    def __init__(self, devices: FakeDevices) -> None:
        super().__init__()
        self.devices = devices

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, devices = dict(kwargs or {}), self.devices
        if func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return devices.of(args[0])
        if func in (Tensor.to, Tensor.cpu):
            return self._to(func, *args, **kwargs)
        device = kwargs.pop("device", None)
        if device is None and getattr(func, "__name__", "") not in _FACTORIES:
            return func(*args, **kwargs)
        with devices.made_at(_named(device or CPU)):
            return func(*args, **kwargs)

    def _to(self, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if func is Tensor.cpu:
            return self.devices.moved(x, CPU)
        if args and isinstance(args[0], Tensor):
            device, dtype, rest = self.devices.of(args[0]), args[0].dtype, args[1:]
        else:
            device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)  # type: ignore[attr-defined]
            rest = ()
        about = {name: kwargs[name] for name in ("copy", "memory_format") if name in kwargs}
        assert not rest
        out = x if dtype is None and not about else x.to(dtype=dtype or x.dtype, **about)
        return out if device is None else self.devices.moved(out, _named(device))


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)


def _named(device: Any) -> torch.device:
    return torch.device(f"ipu:{device}") if isinstance(device, int) else torch.device(device)


@contextmanager
def fake_devices() -> Iterator[FakeDevices]:
    """Let tensors be on "ipu:0", "ipu:1", ... inside."""
    devices = FakeDevices()
    with _Operations(devices), _Calls(devices):
        yield devices

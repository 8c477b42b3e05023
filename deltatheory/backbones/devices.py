"""Where the weights of a backbone can be."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn

__all__ = ["check_spreading", "find_device", "spread"]

_DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")  # of accelerate


def find_device(device: torch.device | str) -> torch.device:
    """Return a device by name, after a look whether tensors can be there.

    Raises:
        ValueError: if they cannot, or for the name of a device map, which spreads a model over devices.
    """
    if device in _DEVICE_MAPS:
        raise ValueError(
            f"device={device!r}: is a device_map; give one device, 'cpu' or 'cuda:0', or 'auto' where a "
            "model is loaded"
        )
    try:
        found = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # what torch raises for an unknown name, and for no CUDA
        raise ValueError(f"device={str(device)!r}: not to be had here; 'cpu' always is") from error
    if found.type == "meta":
        raise ValueError(f"device={str(device)!r}: holds no numbers; allowed are 'cpu', 'cuda', ...")
    return torch.device(device)


def check_spreading() -> None:
    """Refuse to spread a model where accelerate is not installed.

    Raises:
        ValueError: if it is not.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise ValueError("device='auto': needs accelerate: pip install accelerate; or give one device")


def spread(model: nn.Module) -> nn.Module:
    """Put the blocks of a `transformers` model on the devices that there are, and return it."""
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole: Any = model
    kept: list[str] = list(whole._no_split_modules or ())  # no block is cut
    memory = get_balanced_memory(model, no_split_module_classes=kept)
    return dispatch_model(
        model, infer_auto_device_map(model, max_memory=memory, no_split_module_classes=kept)
    )

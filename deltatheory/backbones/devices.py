"""Where the weights of a backbone can be."""

from __future__ import annotations

import torch

__all__ = ["find_device"]

_DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")  # of accelerate


def find_device(device: torch.device | str) -> torch.device:
    """Return a device by name, after a look whether tensors can be there.

    Raises:
        ValueError: if they cannot, or for the name of a device map, which spreads a model over devices.
    """
    if device in _DEVICE_MAPS:
        raise ValueError(
            f"device={device!r}: is a device_map, not supported; give one device: 'cpu', 'cuda:0'"
        )
    try:
        found = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # what torch raises for an unknown name, and for no CUDA
        raise ValueError(f"device={str(device)!r}: not to be had here; 'cpu' always is") from error
    if found.type == "meta":
        raise ValueError(f"device={str(device)!r}: holds no numbers; allowed are 'cpu', 'cuda', ...")
    return torch.device(device)

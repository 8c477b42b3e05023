"""The only module that calls `torch.func`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.func as tf
from torch import Tensor, nn

__all__ = ["functional_call"]


def functional_call(
    model: nn.Module, parameters: Mapping[str, Tensor], args: tuple = (), kwargs: dict[str, Any] | None = None
) -> Any:
    """Call `model(*args, **kwargs)` with some parameters replaced, as a pure function of them.

    Arguments:
        model: any module.
        parameters: replacements named as in `model.named_parameters()`; the others keep their values, and
            one name of a tied weight replaces all its places.
        args: positional arguments.
        kwargs: keyword arguments.
    """
    return tf.functional_call(model, dict(parameters), args, kwargs, tie_weights=True)

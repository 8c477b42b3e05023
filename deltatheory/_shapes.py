"""Shape annotations: jaxtyping where it is installed (the tests check every one), plain tensors elsewhere."""

from __future__ import annotations

try:
    from jaxtyping import Bool, Float, Int
except ImportError:  # `import deltatheory` needs only numpy, scipy and torch

    class _AnyShape:
        def __class_getitem__(cls, item: tuple) -> type:
            return item[0]

    Bool = Float = Int = _AnyShape  # type: ignore[assignment,misc]

__all__ = ["Bool", "Float", "Int"]

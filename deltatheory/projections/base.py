"""What every projection promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.projections.segments import PartialAdjoint, Segments

__all__ = ["Projection"]


class Projection(ABC):
    """A random linear map P: R^d -> R^D with nearly orthonormal columns, for training in theta = theta0 + P
    delta.

    A construction is one subclass in one file and one line in `deltatheory.projections.PROJECTIONS`.

    P is a function of (name, d, D, seed, options) alone: the same on every device, and never held as a
    matrix. Tables of O(d + D / 32) numbers may be kept; they are made on first use, on the device of the
    vector given. The laws every projection keeps are in `deltatheory.projections.laws.check_projection`.

    Attributes:
        name: key in `PROJECTIONS`.
        nested: whether `lift` to some larger d is exact; the class says which.
        examples: options of each variant that is to be held to the laws.
        d: dimension of the subspace.
        D: dimension of the space.
        seed: of the random numbers.
        options: the further arguments the map was made with.

    """

    name: ClassVar[str]
    nested: ClassVar[bool] = False
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)

    def __init__(self, d: int, D: int, *, seed: int, **options: Any) -> None:
        if D < 1:
            raise ValueError(f"D={D}: the space needs at least one dimension, D >= 1.")
        if not 1 <= d <= D:
            raise ValueError(f"d={d}: a subspace of R^{D} has a dimension in 1 <= d <= D={D}.")
        if seed < 0:
            raise ValueError(f"seed={seed}: seeds are integers >= 0.")
        self.d, self.D, self.seed, self.options = d, D, seed, options
        self._state: tuple[torch.device, Any] | None = None

    @torch.no_grad()
    def apply(
        self,
        delta: Float[Tensor, " d"],
        out: Float[Tensor, " D"] | None = None,
        base: Float[Tensor, " D"] | None = None,
    ) -> Float[Tensor, " D"]:
        """Write base + P delta into `out`, in place.

        Args:
            delta: shape (d,), float32 or float64.
            out: shape (D,), contiguous, same dtype and device; made new when not given (a fresh D-vector
            costs
                several times the map itself, so give the model's own storage). It may be `base`.
            base: shape (D,); 0 when not given.

        Returns:
            `out`.

        Raises:
            ValueError: a wrong shape, dtype or device, or an `out` that is not contiguous.

        >>> import torch
        >>> from deltatheory.projections import make_projection
        >>> projection = make_projection("identity", 2, 2, seed=0)
        >>> projection.apply(torch.tensor([1.0, 2.0]), base=torch.tensor([10.0, 10.0]))
        tensor([11., 12.])
        """
        self._check("delta", delta, self.d, delta)
        if out is None:
            out = torch.empty(self.D, dtype=delta.dtype, device=delta.device)
        self._check("out", out, self.D, delta)
        if not out.is_contiguous():
            raise ValueError(f"out.stride()={out.stride()}: out must be contiguous.")
        if base is not None:
            self._check("base", base, self.D, delta)
        self._write(delta.contiguous(), out, base)
        return out

    @torch.no_grad()
    def adjoint(self, gradient: Float[Tensor, " D"]) -> Float[Tensor, " d"]:
        """P^T gradient.

        Args:
            gradient: shape (D,), float32 or float64.

        Raises:
            ValueError: a wrong shape or dtype.

        """
        self._check("gradient", gradient, self.D, gradient)
        return self._gather(gradient.contiguous())

    @torch.no_grad()
    def segments(self, delta: Float[Tensor, " d"]) -> Segments:
        """P delta to be read a segment at a time, for parameters that are never one vector.

        Args:
            delta: shape (d,), float32 or float64; not to be changed while the segments are in use.

        Raises:
            ValueError: a wrong shape or dtype.

        >>> import torch
        >>> from deltatheory.projections import make_projection
        >>> projection = make_projection("hashed", 2, 1000, seed=0)
        >>> delta = torch.tensor([3.0, 4.0])
        >>> bool((projection.segments(delta).read(70, 90) == projection.apply(delta)[70:90]).all())
        True
        """
        self._check("delta", delta, self.d, delta)
        return self._segments(delta)

    def partial_adjoint(self, rows: int, like: Tensor) -> PartialAdjoint:
        """P^T of gradients of which a segment at a time is known: `add` the segments, then take the `total`.

        Args:
            rows: number of gradients, each a vector of R^D.
            like: float32 or float64; the sums get its dtype and device.

        Raises:
            ValueError: a wrong dtype.

        >>> import torch
        >>> from deltatheory.projections import make_projection
        >>> projection = make_projection("identity", 3, 3, seed=0)
        >>> sums = projection.partial_adjoint(1, torch.zeros(1))
        >>> sums.add(1, torch.tensor([[5.0, 7.0]]))
        >>> sums.total()
        tensor([[0., 5., 7.]])
        """
        self._check("like", like.view(-1), like.numel(), like)
        if rows < 1:
            raise ValueError(f"rows={rows}: at least 1.")
        return self._partial_adjoint(rows, like)

    def lift(self, delta: Float[Tensor, " d"], larger: Projection) -> Float[Tensor, " larger_d"]:
        """Find the delta' with P_larger delta' = P delta: a run goes on in a larger subspace where it stood.

        Raises:
            ValueError: the construction is not nested, or `larger` differs in more than d, or its d does
            not fit.

        """
        self._check("delta", delta, self.d, delta)
        if not self.nested:
            raise ValueError(
                f"name={self.name!r}: this construction is not nested; nested ones have nested=True."
            )
        mine, other = ((type(p), p.D, p.seed, p.options) for p in (self, larger))
        if mine != other:
            raise ValueError(f"larger={larger!r}: must differ from {self!r} in d only.")
        if larger.d < self.d:
            raise ValueError(f"larger.d={larger.d}: must be at least d={self.d}.")
        return self._lift(delta, larger)

    @property
    @abstractmethod
    def isometry(self) -> float:
        """A bound on the spectral norm of P^T P - I: 0 if exact, else the class says how surely it holds."""

    def linear_operator(self) -> LinearOperator:
        """P as a scipy operator of shape (D, d), in float64 on the CPU."""

        def matvec(vector: np.ndarray) -> np.ndarray:
            return self.apply(_as_tensor(vector)).numpy()

        def rmatvec(vector: np.ndarray) -> np.ndarray:
            return self.adjoint(_as_tensor(vector)).numpy()

        return LinearOperator((self.D, self.d), matvec=matvec, rmatvec=rmatvec, dtype=np.float64)  # type: ignore[call-arg]

    @abstractmethod
    def _write(self, delta: Tensor, out: Tensor, base: Tensor | None) -> None:
        """`apply` on checked arguments."""

    @abstractmethod
    def _gather(self, gradient: Tensor) -> Tensor:
        """`adjoint` on a checked argument."""

    def _segments(self, delta: Tensor) -> Segments:
        """`segments` on a checked argument; P delta is made whole unless a construction overrides this."""
        return Segments(self.apply(delta))

    def _partial_adjoint(self, rows: int, like: Tensor) -> PartialAdjoint:
        """`partial_adjoint` on checked arguments; the gradients are kept whole unless this is overridden."""
        return PartialAdjoint(like.new_zeros(rows, self.D), self.D, self._gather_rows)

    def _gather_rows(self, gradients: Tensor) -> Tensor:
        """P^T of every row; shape (rows, D) to (rows, d)."""
        return torch.stack([self._gather(gradient) for gradient in gradients])

    def _lift(self, delta: Tensor, larger: Any) -> Tensor:
        """`lift` once everything but d is known to agree. Nested constructions define it."""
        raise TypeError(f"{type(self).__name__} has nested=True and defines no _lift.")

    def _build(self, device: torch.device) -> Any:
        """Make the tables of the map on a device. Constructions that keep any define it."""
        raise TypeError(f"{type(self).__name__} asks for tables and defines no _build.")

    def _tables(self, device: torch.device) -> Any:
        if self._state is None or self._state[0] != device:
            self._state = (device, self._build(device))
        return self._state[1]

    def _blocks(self, device: torch.device, multiple: int = 1) -> range:
        """Cut R^D into blocks of `step` entries, worked through one after another.

        A block stays in cache and is small beside a large D; a GPU gets fewer and larger ones.
        """
        if device.type == "cpu":
            length = 1 << min(max(16, self.D.bit_length() - 7), 18)
        else:
            length = max(1 << 20, self.D // 32)
        return range(0, self.D, -(-length // multiple) * multiple)

    def _check(self, argument: str, vector: Tensor, length: int, like: Tensor) -> None:
        if vector.shape != (length,):
            raise ValueError(f"{argument}.shape={tuple(vector.shape)}: must be ({length},).")
        if vector.dtype not in (torch.float32, torch.float64) or vector.dtype != like.dtype:
            raise ValueError(
                f"{argument}.dtype={vector.dtype}: must be float32 or float64, the same in all arguments."
            )
        if vector.device != like.device:
            raise ValueError(
                f"{argument}.device={vector.device}: must be {like.device}, as the other arguments."
            )

    def __repr__(self) -> str:
        options = "".join(f", {key}={value!r}" for key, value in self.options.items())
        return f"{type(self).__name__}({self.d}, {self.D}, seed={self.seed}{options})"


def _as_tensor(vector: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(vector, dtype=np.float64).reshape(-1))

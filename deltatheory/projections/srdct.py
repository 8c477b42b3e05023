"""Subsampled randomised cosine transform, in blocks."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from deltatheory.projections.blocked import BlockedHash

__all__ = ["SRDCT"]


class SRDCT(BlockedHash):
    """Signed copies of delta, cosine-transformed in blocks of 1024 (Avron et al., 2010).

    The transform is the orthonormal DCT-II computed by one real FFT (Makhoul, 1980), up to the order of its
    rows and columns and the signs of its rows, which random copies make irrelevant. Any length will do, so
    nothing is padded. Exactly isometric and nested as `Hashed` is.
    """

    name: ClassVar[str] = "srdct"

    def _transform(self, blocks: Tensor) -> Tensor:
        length = blocks.shape[1]
        ends, pairs = _real_bins(length)
        spectrum = torch.fft.rfft(blocks, norm="ortho")
        turned = spectrum[:, pairs].mul_(_twiddles(length, spectrum.dtype, spectrum.device))
        # The spectrum is a copy, so its coefficients may take the place of the values.
        blocks[:, 0] = spectrum[:, 0].real
        if ends == 2:
            blocks[:, 1] = spectrum[:, -1].real
        blocks[:, ends:].unflatten(1, (pairs.stop - 1, 2)).copy_(torch.view_as_real(turned))
        return blocks

    def _transpose(self, blocks: Tensor) -> Tensor:
        count, length = blocks.shape
        ends, pairs = _real_bins(length)
        coefficients = blocks[:, ends:]
        if coefficients.storage_offset() % 2 or length % 2:
            # The model's own storage may start anywhere; a complex view may not.
            coefficients = coefficients.clone(memory_format=torch.contiguous_format)
        turned = torch.view_as_complex(coefficients.unflatten(1, (pairs.stop - 1, 2)))
        spectrum = turned.new_empty(count, length // 2 + 1)
        spectrum[:, 0] = blocks[:, 0]
        if ends == 2:
            spectrum[:, -1] = blocks[:, 1]
        torch.mul(turned, _inverse_twiddles(length, turned.dtype, turned.device), out=spectrum[:, pairs])
        return torch.fft.irfft(spectrum, n=length, norm="ortho")


def _real_bins(length: int) -> tuple[int, slice]:
    """How many bins of a real FFT are real (0 and, for an even length, length / 2); slice of the others."""
    return 1 + (length % 2 == 0), slice(1, (length + 1) // 2)


@lru_cache(maxsize=16)
def _twiddles(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    # Real and imaginary part of bin k of the turned spectrum are coefficients k and length - k of the DCT.
    k = torch.arange(1, (length + 1) // 2, dtype=torch.float64)
    turns = torch.polar(torch.full_like(k, math.sqrt(2.0)), -math.pi * k / (2 * length))
    return turns.to(device=device, dtype=dtype)


@lru_cache(maxsize=16)
def _inverse_twiddles(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    # Halved: irfft counts every bin but the ends twice.
    return (_twiddles(length, dtype, device).conj() / 2).resolve_conj()

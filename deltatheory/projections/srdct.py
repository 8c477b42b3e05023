"""Subsampled randomised cosine transform, in blocks."""

from __future__ import annotations

import math
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
        mixed = torch.empty_like(blocks)
        mixed[:, : len(ends)] = spectrum[:, ends].real
        turned = spectrum[:, pairs] * _twiddles(length, spectrum)
        mixed[:, len(ends) :] = torch.view_as_real(turned).flatten(1)
        return mixed

    def _transpose(self, blocks: Tensor) -> Tensor:
        length = blocks.shape[1]
        ends, pairs = _real_bins(length)
        # A copy: a complex view needs an even offset, and the model's own storage may start anywhere.
        coefficients = blocks[:, len(ends) :].unflatten(1, (pairs.stop - 1, 2))
        turned = torch.view_as_complex(coefficients.clone(memory_format=torch.contiguous_format))
        spectrum = turned.new_empty(len(blocks), length // 2 + 1)
        spectrum[:, ends] = blocks[:, : len(ends)].to(spectrum.dtype)
        # irfft counts every bin but the ends twice.
        torch.mul(turned, _twiddles(length, turned).conj() / 2, out=spectrum[:, pairs])
        return torch.fft.irfft(spectrum, n=length, norm="ortho")


def _real_bins(length: int) -> tuple[list[int], slice]:
    """Bins of a real FFT that are real (0 and, for an even length, length / 2); slice of the others."""
    ends = [0] if length % 2 else [0, length // 2]
    return ends, slice(1, (length + 1) // 2)


def _twiddles(length: int, like: Tensor) -> Tensor:
    # Real and imaginary part of bin k of the turned spectrum are coefficients k and length - k of the DCT.
    k = torch.arange(1, (length + 1) // 2, dtype=torch.float64, device=like.device)
    return torch.polar(torch.full_like(k, math.sqrt(2.0)), -math.pi * k / (2 * length)).to(like.dtype)

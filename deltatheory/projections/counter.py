"""Random numbers as a pure function of (seed, stream, position), the same bits on every device.

The i-th word of a stream is a hash of i: nothing is stored, any part can be made again in any order, and
because only 64-bit integer arithmetic is used a CPU and a GPU agree bit by bit. Floats come out of integers
through a small table made once on the CPU, so they agree as well.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

import torch
from torch import Tensor

from deltatheory._shapes import Float, Int

__all__ = ["gaussian", "integers", "permutation", "signs", "uniform_bits", "words_at"]

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def uniform_bits(
    seed: int, stream: str, start: int, count: int, device: torch.device | str = "cpu"
) -> Int[Tensor, " count"]:
    """Words `start .. start + count - 1` of a stream: 64 uniform bits each, as int64.

    Args:
        seed: non-negative; different seeds give unrelated words.
        stream: a name; different names under one seed give unrelated words.
        start: first position.
        count: how many words.
        device: where they are made.

    """
    return words_at(seed, stream, torch.arange(start, start + count, device=device))


def words_at(seed: int, stream: str, positions: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Hash positions (int64) to words of a stream: splitmix64 (Steele, Lea and Flood, 2014), keyed twice.

    The second key enters between the two multiplications, so two streams are not shifts of one sequence.
    """
    first, second = _keys(seed, stream)
    word = positions * _signed(_GOLDEN)
    word += first
    word ^= _shifted(word, 30)
    word *= _signed(_MULTIPLIERS[0])
    word ^= second
    word ^= _shifted(word, 27)
    word *= _signed(_MULTIPLIERS[1])
    word ^= _shifted(word, 31)
    return word


def integers(
    seed: int, stream: str, start: int, count: int, high: int, device: torch.device | str = "cpu"
) -> Int[Tensor, " count"]:
    """Integers in [0, high), uniform up to a bias of high / 2^63."""
    return (uniform_bits(seed, stream, start, count, device) & (_MASK >> 1)) % high


def signs(
    seed: int,
    stream: str,
    start: int,
    count: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, " count"]:
    """Independent fair signs, +1 or -1; 64 of them come from one word."""
    first = start // 64
    words = uniform_bits(seed, stream, first, -(-(start + count) // 64) - first, device)
    table = _sign_table(dtype, words.device)
    values = table.index_select(0, words.view(torch.uint8).int()).flatten()
    return values[start - 64 * first : start - 64 * first + count]


def gaussian(
    seed: int,
    stream: str,
    start: int,
    count: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, " count"]:
    """Independent standard normals, on 2^16 quantiles (variance 1, |x| < 4.4); four come from one word."""
    first = start // 4
    words = uniform_bits(seed, stream, first, -(-(start + count) // 4) - first, device)
    return normals_of(words, dtype)[start - 4 * first : start - 4 * first + count]


def normals_of(words: Int[Tensor, "*shape n"], dtype: torch.dtype) -> Float[Tensor, "*shape m"]:
    """Four standard normals from each word, along the last axis (m = 4 n)."""
    fields = words.view(torch.int16).int() + (1 << 15)
    table = _quantiles(dtype, words.device)
    return table.index_select(0, fields.flatten()).view(fields.shape)


def permutation(
    seed: int, stream: str, length: int, device: torch.device | str = "cpu"
) -> Int[Tensor, " length"]:
    """Draw a uniform random order of 0 .. length - 1: the order of `length` random words."""
    return torch.argsort(uniform_bits(seed, stream, 0, length, device), stable=True)


def _keys(seed: int, stream: str) -> tuple[int, int]:
    # crc32, not hash(): Python salts the hash of a string anew in every process.
    key = _scramble(_scramble(seed & _MASK) ^ zlib.crc32(stream.encode()) ^ (seed >> 64))
    return _signed(key), _signed(_scramble(key))


def _scramble(word: int) -> int:
    word = (word + _GOLDEN) & _MASK
    word = ((word ^ (word >> 30)) * _MULTIPLIERS[0]) & _MASK
    word = ((word ^ (word >> 27)) * _MULTIPLIERS[1]) & _MASK
    return word ^ (word >> 31)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _shifted(word: Tensor, bits: int) -> Tensor:
    # torch shifts an int64 arithmetically; the mask makes the shift logical.
    return (word >> bits) & (_MASK >> bits)


@lru_cache(maxsize=8)
def _sign_table(dtype: torch.dtype, device: torch.device) -> Tensor:
    bits = (torch.arange(256)[:, None] >> torch.arange(8)) & 1
    return (1 - 2 * bits).to(device=device, dtype=dtype)  # shape: (256, 8)


@lru_cache(maxsize=8)
def _quantiles(dtype: torch.dtype, device: torch.device) -> Tensor:
    values = torch.special.ndtri((torch.arange(1 << 16, dtype=torch.float64) + 0.5) / (1 << 16))
    return (values / values.square().mean().sqrt()).to(device=device, dtype=dtype)

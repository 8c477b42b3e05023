"""Intrinsic prompt tuning (Qin et al. 2021): a prompt in a low-dimensional space shared by tasks."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from deltatheory._shapes import Float
from deltatheory.backbones import Backbone, Edit
from deltatheory.deltas.base import Delta, Options
from deltatheory.deltas.prompt import check_length, start_embeddings, start_tokens

__all__ = ["IntrinsicPromptTuning", "PromptSubspace", "fit_prompt_subspace"]

_LENGTH, _DIMENSION = 20, 5


@dataclass(frozen=True, eq=False)
class PromptSubspace:
    """The prompts centre + Σ_i δ_i basis_i; the basis is orthonormal.

    Attributes:
        centre: shape (k, H).
        basis: shape (d, k, H).
        explained: the share of the fitted prompts' variance that lies in the basis.
    """

    centre: Float[Tensor, "k H"]
    basis: Float[Tensor, "d k H"]
    explained: float

    def to_json(self) -> dict:
        """Return plain JSON: the shape, and (centre, basis) as little-endian float64 in base64."""
        whole = torch.cat([self.centre[None], self.basis]).double().cpu()
        data = base64.b64encode(whole.numpy().astype("<f8").tobytes()).decode()
        return {"shape": list(self.basis.shape), "data": data, "explained": self.explained}

    @classmethod
    def from_json(cls, stored: Mapping) -> PromptSubspace:
        """Return what `to_json` stored, bit by bit.

        Raises:
            ValueError: for data that do not fill the shape.
        """
        d, k, width = stored["shape"]
        flat = np.frombuffer(base64.b64decode(stored["data"]), "<f8")
        if flat.size != (d + 1) * k * width:
            raise ValueError(
                f"data has {flat.size} numbers: shape={stored['shape']} needs {(d + 1) * k * width}."
            )
        whole = torch.from_numpy(flat.astype(np.float64)).view(d + 1, k, width)
        return cls(whole[0], whole[1:], stored["explained"])


def fit_prompt_subspace(prompts: Float[Tensor, "tasks k H"], d: int) -> PromptSubspace:
    """Return the d principal components of trained prompts, found in float64 by an SVD.

    They are the linear auto-encoder of least squared error (Eckart & Young 1936), where the multi-task
    subspace finding of Qin et al. (2021) trains one with a hidden layer.

    Args:
        prompts: one of each task.
        d: 1 <= d <= the rank of the prompts around their mean, at most tasks - 1.

    Raises:
        ValueError: for another d.

    >>> import torch
    >>> fitted = fit_prompt_subspace(torch.tensor([[[0.0, 0.0]], [[2.0, 0.0]], [[4.0, 0.0]]]), d=1)
    >>> fitted.centre.tolist(), fitted.basis.abs().tolist(), round(fitted.explained, 12)
    ([[2.0, 0.0]], [[[1.0, 0.0]]], 1.0)
    """
    flat = prompts.detach().double().cpu().flatten(1)
    centre = flat.mean(0)
    _, spread, rows = torch.linalg.svd(flat - centre, full_matrices=False)
    rank = int((spread > spread[0] * max(flat.shape) * torch.finfo(spread.dtype).eps).sum())
    if not 1 <= d <= rank:
        raise ValueError(
            f"d={d}: must lie in 1..{rank}, the rank of {len(prompts)} prompts around their mean."
        )
    explained = float(spread[:d].square().sum() / spread.square().sum())
    shape = prompts.shape[1:]
    return PromptSubspace(centre.view(shape), rows[:d].reshape(d, *shape), explained)


class IntrinsicPromptTuning(Delta):
    """x_0 = [e₀ + Σ_i δ_i b_i; e(text)], b orthonormal in R^{k × H} (Qin et al. 2021).

    With a fitted subspace, b are its components and e₀ its centre; without one, b are random and e₀ words of
    the vocabulary. The decoder is linear. There is no exact zero: δ = 0 is the frozen backbone that reads e₀
    before each text.

    Args:
        backbone: what it changes.
        d: the number of coordinates, 1 <= d <= k H; by default 5. Only without `subspace`.
        length: k; by default 20. Only without `subspace`.
        subspace: from `fit_prompt_subspace`, or as the specification stores it.
        start: as in `PromptTuning`. Only without `subspace`.
        seed: of the random basis and of e₀'s words.

    Raises:
        ValueError: for d or k out of range, d, length or start beside a subspace, or a subspace of another
            hidden size.
    """

    name: ClassVar[str] = "intrinsic-prompt"
    family: ClassVar[str] = "addition"
    formula: ClassVar[str] = "x_0 = [e₀ + Σ_i δ_i b_i; e(text)]"
    acts: ClassVar[str] = "virtual tokens before the word embeddings"
    affine: ClassVar[bool] = False
    examples: ClassVar[tuple[Options, ...]] = ({"d": 60, "length": 6},)
    exact_zero: bool = False

    def __init__(
        self,
        backbone: Backbone,
        *,
        d: int | None = None,
        length: int | None = None,
        subspace: PromptSubspace | Mapping | None = None,
        start: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone)
        self.start, self.seed = start, seed
        if subspace is None:
            self.subspace = None
            length = _LENGTH if length is None else length
            centre, basis = self._random(_DIMENSION if d is None else d, length)
        else:
            own = {"d": d, "length": length, "start": start}
            beside = [name for name, value in own.items() if value is not None]
            if beside:
                raise ValueError(f"{beside[0]}={own[beside[0]]!r}: leave it out; the subspace has its own.")
            if not isinstance(subspace, PromptSubspace):
                subspace = PromptSubspace.from_json(subspace)
            if subspace.basis.shape[2] != backbone.embedding_size:
                raise ValueError(
                    f"subspace has prompts of width {subspace.basis.shape[2]}: "
                    f"{backbone.name!r} takes {backbone.embedding_size}."
                )
            check_length(backbone, subspace.basis.shape[1])
            self.subspace = subspace
            centre, basis = subspace.centre, subspace.basis
        self.size, self.length = basis.shape[:2]
        # Fitted, drawn or read, in one layout and a storage of its own: a product's last bits depend on both.
        self._start, self._basis = (
            x.to(backbone.device, backbone.wide_dtype, copy=True, memory_format=torch.contiguous_format)
            for x in (centre, basis.flatten(1))
        )

    def _random(self, d: int, length: int) -> tuple[Tensor, Tensor]:
        start = start_embeddings(self.backbone, start_tokens(self.backbone, length, self.start, self.seed))
        if not 1 <= d <= start.numel():
            raise ValueError(f"d={d}: must lie in 1..{start.numel()}, the size of {length} virtual tokens.")
        generator = torch.Generator().manual_seed(self.seed)
        columns = torch.randn(start.numel(), d, generator=generator, dtype=torch.float64)
        basis = torch.linalg.qr(columns)[0].T
        return start, basis.reshape(d, *start.shape)

    def prompt(self, delta: Float[Tensor, " m"]) -> Float[Tensor, "k H"]:
        """Return e₀ + Σ_i δ_i b_i."""
        return self._start + (delta @ self._basis).view(self._start.shape)

    def edit(self, delta: Float[Tensor, " m"]) -> Edit:
        """Put the prompt before the text."""
        return Edit(prompt=self.prompt(delta))

    def specification(self) -> dict:
        """Return a fitted subspace as `PromptSubspace.to_json` stores it; else d, length, start and seed."""
        if self.subspace is not None:
            return {"delta": self.name, "subspace": self.subspace.to_json()}
        return {
            "delta": self.name,
            "d": self.size,
            "length": self.length,
            "start": self.start,
            "seed": self.seed,
        }

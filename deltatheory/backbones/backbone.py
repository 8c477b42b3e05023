"""One frozen transformer: its inputs, its last hidden state, and the same map cut at the blocks.

An encoder-decoder is one chain of blocks too. Its state x_t is the encoder's tokens and, behind them, the
decoder's: the blocks of the encoder move the first part, the last of them ends with the encoder's own
normalisation, and the blocks of the decoder move the second part and read the first, the memory.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltatheory._shapes import Float, Int
from deltatheory._texts import check_texts
from deltatheory.autodiff import functional_call
from deltatheory.backbones.batch import Batch, Pooling, additive_mask, pool, read_position
from deltatheory.backbones.devices import find_device
from deltatheory.backbones.edit import Edit, editing
from deltatheory.backbones.families import Kind
from deltatheory.backbones.recompute import recomputed
from deltatheory.backbones.stacks import Stacks

__all__ = ["Backbone"]


def as_edit(edit: Edit | Mapping[str, Tensor] | None) -> Edit:
    """Return an edit as it is, a mapping as an edit of parameters, and `None` as the empty edit."""
    if isinstance(edit, Edit):
        return edit
    return Edit(parameters=edit or {})


def _device_of(module: nn.Module, x: Tensor) -> torch.device:
    """Return where a module's weights are, or x, where it has none (OLMo's norm)."""
    return next(module.parameters(), x).device


class _Reached(Exception):
    """Carries the arguments of a block out of a forward pass that has arrived there."""


def _shifted(shift: int, _: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Count positions from `shift`: a forward pre-hook of a module of positions."""
    return args, {**kwargs, "position_ids": kwargs["position_ids"] + shift}


@dataclass(eq=False)
class Backbone(Stacks):
    """A prepared base model and its tokenizer: x_0 = embed(batch), x_{t+1} = step(t, x_t), readout(x_T).

    Build one with `load_backbone` or, around a model at hand, with `wrap_model`.

    Arguments:
        model: the `transformers` base model (no task head), prepared.
        tokenizer: pads on the right.
        name: what was asked for.
        revision: commit or package version, where there is one.
        kind: "encoder", "causal" or "encoder-decoder".
        provenance: name, revision, weights_sha256, architecture, parameters (their number); of a local folder
            files_sha256, of its configuration and tokenizer; of a model at hand contents_sha256; dtype of
            weights that are not in float32.
        hidden_size: H, the width of the blocks.
        max_length: the longest T that the model takes.
        lm_head: the map to the vocabulary (its weight may be that of the input embedding); of an encoder its
            masked-language-model head, where the checkpoint has one.
        classifier: the classification head that the checkpoint was trained with, where it has one, in
            `wide_dtype`.
        start: tokens that the decoder of an encoder-decoder reads before an answer.
        gradient_checkpointing: whether in a pass each block keeps its inputs alone for the backward pass, and
            runs again there; no transform of `torch.func` passes it.
    """

    model: nn.Module
    tokenizer: Any
    name: str
    revision: str | None
    kind: Kind
    provenance: dict[str, Any]
    hidden_size: int
    max_length: int
    lm_head: nn.Module | None = None
    classifier: nn.Module | None = None
    start: tuple[int, ...] = ()
    gradient_checkpointing: bool = field(default=False, init=False)

    def __repr__(self) -> str:
        about = f"{self.kind}, {len(self.layers)} blocks, H = {self.hidden_size}"
        return f"<Backbone {self.name}: {about}, {self.provenance['parameters']:,} parameters>"

    def __post_init__(self) -> None:
        self._find_stacks()
        self._name_dtype()
        if self.classifier is not None and self.dtype != self.wide_dtype:
            self.classifier = copy.deepcopy(self.classifier).to(self.wide_dtype)  # the model's own stays

    def _name_dtype(self) -> None:
        self.provenance.pop("dtype", None)
        if self.dtype != torch.float32:
            self.provenance["dtype"] = str(self.dtype).removeprefix("torch.")

    @property
    def embedding_size(self) -> int:
        """The width of word embeddings, and of a prompt."""
        return cast(Any, self.model).get_input_embeddings().weight.shape[1]

    @property
    def output_size(self) -> int:
        """O, the width of the last hidden state: H, but for a projection after the blocks."""
        project = self._part_of_readout("project")
        return self.hidden_size if project is None else cast(nn.Linear, project).out_features

    def _part_of_readout(self, part: Literal["norm", "project"]) -> nn.Module | None:
        path = getattr(self._stacks[-1], part)
        return attrgetter(path)(self.model) if path else None

    @property
    def wide_dtype(self) -> torch.dtype:
        """The type of δ, pooled states and logits: float32 above half-precision weights, else theirs."""
        return torch.promote_types(self.dtype, torch.float32)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Backbone:
        """Move or cast the weights in place and return self.

        Raises:
            ValueError: for a device that is not there, or a model that is on several.
        """
        if device is not None:
            self.check_on_one_device(f"device={str(device)!r}")
            device = find_device(device)
        for module in (self.model, self.lm_head):
            if module is not None:
                module.to(device=device, dtype=dtype)
        if self.classifier is not None:
            self.classifier.to(device=device, dtype=self.wide_dtype)
        self._name_dtype()
        return self

    def encode(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, max_length: int | None = None
    ) -> Batch:
        """Turn texts (or pairs of texts) into a batch on the backbone's device.

        Arguments:
            texts: B texts.
            pairs: B second texts.
            max_length: cut longer texts here; the default is the model's own limit.

        Raises:
            ValueError: for no texts, what is no text or has no token, unequal counts, or a length outside the
                limit.
        """
        max_length = self.max_length if max_length is None else max_length
        if not 1 <= max_length <= self.max_length:
            raise ValueError(f"max_length={max_length}: allowed is 1..{self.max_length} for {self.name!r}")
        if isinstance(texts, str) or len(texts) == 0:
            raise ValueError(f"texts={texts!r}: give a non-empty sequence of strings")
        if pairs is not None and len(pairs) != len(texts):
            raise ValueError(f"len(pairs)={len(pairs)}: allowed is len(texts)={len(texts)}")
        for name, given in (("texts", texts), ("pairs", pairs or ())):
            check_texts(name, given)
        segments = getattr(self.model.config, "type_vocab_size", 0) > 1
        encoded = self.tokenizer(
            list(texts),
            None if pairs is None else list(pairs),
            padding=True,
            truncation=True,
            max_length=max_length,
            # Asked for where the model has segments: a tokenizer may know of them without offering them.
            return_token_type_ids=segments,
            return_tensors="pt",
        )
        ids = encoded["input_ids"].long()
        mask = encoded["attention_mask"].to(self.dtype)
        empty = (mask.sum(1) == 0).nonzero().flatten().tolist()
        if ids.shape[1] == 0 or empty:
            raise ValueError(
                f"texts[{(empty or [0])[0]}] gives no token: leave it out or write a placeholder"
            )
        return self.batch(ids, mask, encoded["token_type_ids"].long() if segments else None)

    def batch(
        self,
        ids: Int[Tensor, "B T"],
        mask: Float[Tensor, "B T"],
        types: Int[Tensor, "B T"] | None = None,
        answers: tuple[Int[Tensor, "B D"], Float[Tensor, "B D"]] | None = None,
    ) -> Batch:
        """Return token numbers as a batch on the backbone's device, with masks and positions of its kind.

        Arguments:
            ids: padded on the right.
            mask: 1 for real tokens, 0 for padding.
            types: segment numbers, where the model has them.
            answers: what the decoder of an encoder-decoder reads, as token numbers with their mask; `start`
                by default.
        """
        decoder = None
        if self.kind == "encoder-decoder":
            start = torch.tensor(self.start).expand(len(ids), -1).to(ids)
            read, real = answers or (start, torch.ones_like(start).to(mask))
            decoder = Batch(read, real, additive_mask(real, causal=True), self._positions(real))
        batch = Batch(ids, mask, self._visible(mask), self._positions(mask), types, decoder)
        return batch.to(self.device)

    def _visible(self, mask: Tensor) -> Tensor:
        visible = additive_mask(mask, self.kind == "causal")
        # Queries of the decoder, of another number than keys, see what those of the encoder see.
        return visible[:, :, :1] if self.kind == "encoder-decoder" else visible

    def _positions(self, mask: Tensor) -> Tensor:
        if self._family.offset_positions:  # RoBERTa: pad + 1, pad + 2, ...; padding stays at pad
            real, config = mask.long(), cast(Any, self.model.config)
            return real.cumsum(1) * real + config.pad_token_id
        return torch.arange(mask.shape[1]).expand(mask.shape[0], -1).contiguous()

    def repeated(self, batch: Batch) -> Batch:
        """Return the batch with a decoder that reads the texts too, one token behind, as classifiers have it.

        Its last real token is then where the text ends.

        Raises:
            ValueError: for a text without an end-of-text token at its end, which those classifiers read.
        """
        ids, mask = batch.input_ids, batch.mask
        last = ids.gather(1, read_position(mask, "last")[:, None])
        if (last != self.tokenizer.eos_token_id).any():
            raise ValueError(
                f"texts: one ends without {self.tokenizer.eos_token!r}, where the classifier of "
                f"{self.name!r} reads: take a tokenizer that puts it there."
            )
        behind = torch.cat([torch.full_like(last, self.start[0]), ids[:, :-1]], 1)
        return self.batch(ids.cpu(), mask.cpu(), answers=(behind.cpu(), mask.cpu()))

    def prompted(self, batch: Batch, length: int) -> Batch:
        """Return the batch as it is with `length` real tokens put before each text; their ids are 0."""
        ids = F.pad(batch.input_ids, (length, 0))
        mask = F.pad(batch.mask, (length, 0), value=1.0)
        types = None if batch.token_type_ids is None else F.pad(batch.token_type_ids, (length, 0))
        positions = self._positions(mask.cpu()).to(ids.device)
        return Batch(ids, mask, self._visible(mask), positions, types, batch.decoder)

    def _forward(
        self,
        batch: Batch,
        edit: Edit | Mapping[str, Tensor] | None,
        memory: Tensor | None = None,
        **options: Any,
    ) -> Any:
        edit = as_edit(edit)
        batch = batch.to(dtype=self.dtype)
        if edit.prompt is None:
            inputs: dict[str, Any] = batch.inputs()
        else:
            words = cast(Any, self.model).get_input_embeddings()
            name = next(n for n, p in self.model.named_parameters() if p is words.weight)
            own = functional_call(
                words, {"weight": edit.parameters.get(name, words.weight)}, (batch.input_ids,)
            )
            prompt = edit.prompt.to(own.dtype).expand(len(batch), -1, -1)
            inputs = self.prompted(batch, prompt.shape[1]).inputs()
            del inputs["input_ids"]
            inputs["inputs_embeds"] = torch.cat([prompt, own], 1)
        if memory is not None:
            inputs["encoder_outputs"] = (memory,)
        if edit.shift and "position_ids" in inputs:
            inputs["position_ids"] = inputs["position_ids"] + edit.shift
        with ExitStack() as stack:
            if edit.shift and self._stacks[-1].positions:
                positions = attrgetter(self._stacks[-1].positions)(self.model)
                hook = partial(_shifted, edit.shift)
                stack.callback(positions.register_forward_pre_hook(hook, with_kwargs=True).remove)
            if self.gradient_checkpointing and not options:  # of generation, where nothing is differentiated
                edit = stack.enter_context(self._recomputed(edit))
            stack.enter_context(editing(self.model, edit, self.attention_modules if edit.attention else {}))
            if not edit.parameters:
                return self.model(**inputs, **options)
            return functional_call(self.model, edit.parameters, (), inputs | options)

    @contextmanager
    def _recomputed(self, edit: Edit) -> Iterator[Edit]:
        """Let the blocks keep their inputs alone; yield what the edit does outside of them."""
        names = list(map(self._block_name, range(len(self.layers))))
        with ExitStack() as stack:
            for t, (name, layer) in enumerate(zip(names, self.layers, strict=True)):
                local, modules = self._inside(name, t, edit)
                acting = partial(editing, layer, local, modules)
                stack.enter_context(recomputed(layer, local.parameters, acting))
            yield edit.outside(names)

    def hidden_states(
        self,
        batch: Batch,
        edit: Edit | Mapping[str, Tensor] | None = None,
        *,
        cache: Any = None,
        memory: Float[Tensor, "B S H"] | None = None,
    ) -> Float[Tensor, "B T O"]:
        """Return the last hidden state of the batch's own tokens; of an encoder-decoder, of its decoder's.

        Arguments:
            batch: from `encode`.
            edit: what the pass does differently; a mapping replaces entries of `model.named_parameters()`,
                one name for tied weights. Without parameters the module's own storage is used and ordinary
                autograd applies.
            cache: of `transformers`: keys and values of what stands before the batch, to be added to.
            memory: what `memory` has returned of the same texts: the encoder does not run again.

        Raises:
            ValueError: if prompt or shift make a text longer than the model takes.
        """
        edit = as_edit(edit)
        extra = 0 if edit.prompt is None else edit.prompt.shape[-2]
        length = batch.input_ids.shape[1]
        longest = length + extra + edit.shift
        if batch.decoder is not None:  # a shift is of its positions, and it may have read more than the texts
            longest = max(length + extra, batch.decoder.attention_mask.shape[-1] + edit.shift)
        if longest > self.max_length:
            raise ValueError(
                f"a prompt of {extra} and a shift of {edit.shift} before {length} tokens: "
                f"{self.name!r} takes at most {self.max_length}; shorten them, or cut texts shorter."
            )
        kept = {} if cache is None else {"past_key_values": cache, "use_cache": True}
        hidden = self._forward(batch, edit, memory, **kept).last_hidden_state
        return hidden[:, hidden.shape[1] - batch.final.mask.shape[1] :].to(self.device)

    def memory(self, batch: Batch, edit: Edit | None = None) -> Float[Tensor, "B S H"]:
        """Return what the decoder of an encoder-decoder reads of the texts, a prompt included."""
        return self._arriving(self.encoder_blocks, batch, edit)["encoder_hidden_states"].to(self.device)

    @property
    def pooling(self) -> Literal["mean", "last"]:
        """How texts become vectors unless something else is asked for."""
        return "mean" if self.kind == "encoder" else "last"

    def pool(
        self, hidden: Float[Tensor, "B T O"], batch: Batch, pooling: Pooling | Literal["mask"] | None = None
    ) -> Float[Tensor, "B O"]:
        """Reduce tokens to one vector: the mean over real tokens (encoder) or the last real token.

        The states of half-precision weights are pooled in float32.

        Arguments:
            hidden: last hidden state.
            batch: the texts it belongs to.
            pooling: "mean", "cls" (first token), "last" or "mask" (the last mask token) instead of the kind's
                default.

        Raises:
            ValueError: for another pooling, or "cls" or "mask" of a causal model (its first token has seen
                nothing).
        """
        allowed = ("mean", "last", "cls", "mask") if self.kind == "encoder" else ("mean", "last")
        batch = batch.final
        pooling = pooling or self.pooling
        if pooling not in allowed:
            raise ValueError(
                f"pooling={pooling!r}: allowed are 'mean', 'last' and, for encoders, 'cls' and 'mask'"
            )
        if pooling == "mask":
            masks = (batch.input_ids == self.tokenizer.mask_token_id).to(batch.mask)
            return pool(hidden.to(self.wide_dtype), masks, "last")
        return pool(hidden.to(self.wide_dtype), batch.mask, pooling)

    def pooled(
        self,
        batch: Batch,
        edit: Edit | Mapping[str, Tensor] | None = None,
        pooling: Pooling | Literal["mask"] | None = None,
    ) -> Float[Tensor, "B O"]:
        """Return `pool(hidden_states(batch, edit), batch, pooling)`."""
        return self.pool(self.hidden_states(batch, edit), batch, pooling)

    def embed(self, batch: Batch, edit: Edit | Mapping[str, Tensor] | None = None) -> Float[Tensor, "B T H"]:
        """Return x_0, exactly what the first block of each stack receives in a pass, prompt included."""
        first = self._arriving(0, batch, edit)["hidden_states"]
        if batch.decoder is None:
            return first
        answer = self._arriving(self.encoder_blocks, batch, edit, memory=first)["hidden_states"]
        return torch.cat([first, answer.to(first.device)], 1)

    def _arriving(
        self, t: int, batch: Batch, edit: Edit | Mapping[str, Tensor] | None, memory: Tensor | None = None
    ) -> dict[str, Any]:
        """Return the arguments that block t receives in a pass, which ends there."""
        signature = inspect.signature(self.layers[t].forward)

        def stop(_module: nn.Module, args: tuple, kwargs: dict) -> None:
            raise _Reached(signature.bind(*args, **kwargs).arguments)

        handle = self.layers[t].register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self._forward(batch, edit, memory)
        except _Reached as reached:
            return reached.args[0]
        finally:
            handle.remove()
        raise RuntimeError(f"{type(self.model).__name__} did not run its block {t}")

    def step(
        self,
        t: int,
        x: Float[Tensor, "B T H"],
        batch: Batch,
        edit: Edit | Mapping[str, Tensor] | None = None,
    ) -> Float[Tensor, "B T H"]:
        """Return x_{t+1}: `behind` block t, and of an encoder with a decoder behind it, `normed` at its end.

        Arguments:
            t: 0 .. len(layers) - 1.
            x: x_t; of an encoder-decoder the tokens of the decoder stand behind those of the encoder.
            batch: the texts it belongs to, `prompted` where x has a prompt.
            edit: as in `hidden_states`; what names other blocks does not act here, and a prompt is in x_0.
        """
        return self.normed(t, self.behind(t, x, batch, edit), batch, edit)

    def behind(
        self,
        t: int,
        x: Float[Tensor, "B T H"],
        batch: Batch,
        edit: Edit | Mapping[str, Tensor] | None = None,
    ) -> Float[Tensor, "B T H"]:
        """Return block_t(x_t) under the batch's 4-D mask (without it, eager sees the future); as in `step`.

        The block computes in its weights' type and on their device; what is returned stays there, in the type
        of x_t.
        """
        edit = as_edit(edit)
        kind, x = x.dtype, x.to(_device_of(self.layers[t], x), self.dtype)
        batch = batch.to(x.device, x.dtype)
        if batch.decoder is None:
            inputs: dict[str, Any] = {
                "attention_mask": batch.attention_mask,
                "position_ids": batch.position_ids + edit.shift,
                "use_cache": False,
            }
            rotary = getattr(self.model, "rotary_emb", None)
            if rotary is not None:
                # Of x it takes type and device, and is on one of its own: no state goes there and back.
                cos_sin = rotary(x[:, :0], inputs["position_ids"])
                inputs["position_embeddings"] = tuple(part.to(x.device) for part in cos_sin)
            return self._block(t, x, inputs, edit).to(kind)
        cut = x.shape[1] - batch.decoder.mask.shape[1]
        source, answer = x[:, :cut], x[:, cut:]
        if t < self.encoder_blocks:
            inputs = {"attention_mask": batch.attention_mask, **self._position_bias(0, cut, edit)}
            source = self._block(t, source, inputs, edit)
        else:
            inputs = {
                "attention_mask": batch.decoder.attention_mask,
                "encoder_hidden_states": source,
                "encoder_attention_mask": batch.attention_mask,
                **self._position_bias(1, answer.shape[1], edit),
            }
            answer = self._block(t, answer, inputs, edit)
        return torch.cat([source, answer], 1).to(kind)

    def normed(
        self,
        t: int,
        x: Float[Tensor, "B T H"],
        batch: Batch,
        edit: Edit | Mapping[str, Tensor] | None = None,
    ) -> Float[Tensor, "B T H"]:
        """Return x_{t+1} from the state behind block t: the memory of the last of an encoder is normed."""
        if batch.decoder is None or t != self.encoder_blocks - 1 or not self._family.norm:
            return x
        cut = x.shape[1] - batch.decoder.mask.shape[1]
        memory = self._run(self._family.norm, x[:, :cut].to(self.dtype), {}, as_edit(edit)).to(x)
        return torch.cat([memory, x[:, cut:]], 1)

    def _block_name(self, t: int) -> str:
        stack, number, _ = self._address(t)
        return f"{stack.layers}.{number}"

    def _block(self, t: int, x: Tensor, inputs: dict[str, Any], edit: Edit) -> Tensor:
        return self._run(self._block_name(t), x, inputs, edit, t)

    def _inside(self, name: str, t: int | None, edit: Edit) -> tuple[Edit, dict[int, nn.Module]]:
        """Return what an edit does inside a module, perhaps block t, and the attentions that are edited."""
        numbers = [] if t is None else self.attentions_of(t)
        attention = {n: edit.attention[n] for n in numbers if n in edit.attention}
        return edit.inside(name, attention), self.attention_modules if attention else {}

    def _run(self, name: str, x: Tensor, inputs: dict[str, Any], edit: Edit, t: int | None = None) -> Tensor:
        """Return what a module gives under that part of an edit that names what is inside it."""
        local, modules = self._inside(name, t, edit)
        module = self.model.get_submodule(name)
        with editing(module, local, modules):
            out = functional_call(module, local.parameters, (x,), inputs)
        return out[0] if isinstance(out, tuple) else out

    def _position_bias(self, stack: int, tokens: int, edit: Edit) -> dict[str, Tensor]:
        """Return what a block of T5 takes from the first of its stack: without it, it adds zeros instead."""
        if not self._stacks[stack].position_bias:
            return {}
        t = stack * self.encoder_blocks
        return {"position_bias": self.position_scores(t, tokens, tokens, edit.parameters)}

    def readout(self, x: Float[Tensor, "B T H"], batch: Batch | None = None) -> Float[Tensor, "B n O"]:
        """Return the last hidden state from x_T: the last normalisation and projection, where there are.

        Arguments:
            x: x_T.
            batch: the texts it belongs to, so that only their own tokens are read: not a prompt before them,
                nor the encoder's part of an encoder-decoder. By default all of x is read.
        """
        x = (x if batch is None else x[:, x.shape[1] - batch.final.mask.shape[1] :]).to(self.dtype)
        for module in (self._part_of_readout("norm"), self._part_of_readout("project")):
            x = x if module is None else module(x.to(_device_of(module, x)))
        return x.to(self.device)

    def vocabulary_logits(
        self, hidden: Float[Tensor, "*b O"], parameters: Mapping[str, Tensor] | None = None
    ) -> Float[Tensor, "*b V"]:
        """Return z = lm_head(h), lm_head(h / √H) (T5), or c tanh(z / c) where logits are capped (Gemma 2).

        Where the weight of `lm_head` is tied to one in `parameters`, the replacement counts here too.

        Raises:
            ValueError: for a backbone without `lm_head`.
        """
        if self.lm_head is None:
            raise ValueError(f"{self.name!r} ({self.kind}) has no lm_head: take a checkpoint that has one")
        new = {
            id(p): parameters[n] for n, p in self.model.named_parameters() if parameters and n in parameters
        }
        tied = {n: new[id(p)] for n, p in self.lm_head.named_parameters() if id(p) in new}
        config: Any = self.model.config
        hidden = hidden.to(self.dtype)
        if getattr(config, "scale_decoder_outputs", False):
            hidden = hidden * self.hidden_size**-0.5
        logits = functional_call(self.lm_head, tied, (hidden.to(_device_of(self.lm_head, hidden)),))
        logits = logits.to(self.device, self.wide_dtype)
        cap = getattr(config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

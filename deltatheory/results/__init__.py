"""Results that survive: objects that write themselves, append-only logs, files that are whole or absent."""

from deltatheory.results.answer import ANSWER, Answer, Section, answered
from deltatheory.results.files import read_json, remove_temporaries, write_atomically, write_json
from deltatheory.results.intervals import wilson
from deltatheory.results.log import (
    LOCKLESS,
    ResultLog,
    configuration_hash,
    failed,
    locked,
    merge,
    standing,
    understood,
)
from deltatheory.results.provenance import provenance
from deltatheory.results.result import PAGE, Result, drawn, figure, plain

__all__ = [
    "ANSWER",
    "LOCKLESS",
    "PAGE",
    "Answer",
    "Result",
    "ResultLog",
    "Section",
    "answered",
    "configuration_hash",
    "drawn",
    "failed",
    "figure",
    "locked",
    "merge",
    "plain",
    "provenance",
    "read_json",
    "remove_temporaries",
    "standing",
    "understood",
    "wilson",
    "write_atomically",
    "write_json",
]

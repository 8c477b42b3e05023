"""Verify, prove, mutate, museum; only `prove` and `museum` need more than the standard library."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from proofs_check import catalogue
from proofs_check.certificate import shown
from proofs_check.mutants import mutants
from proofs_check.verifier import Outcome, Verdict, verify, verify_file


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 if everything came out as it should, 1 if not, 2 for a command that makes no sense.

    """
    parser = argparse.ArgumentParser(prog="python -m proofs_check", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text, run in (
        ("verify", "verify all stored certificates, or the given files", _verify),
        ("prove", "make the certificates of theorems anew", _prove),
        ("mutate", "spoil every certificate; each mutant has to be rejected", _mutate),
        ("museum", "refute published or shipped claims from their statements alone", _museum),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        if name == "verify":
            command.add_argument("files", nargs="*", type=Path)
        if name == "prove":
            command.add_argument("theorems", nargs="+", metavar="ID", help="a theorem such as T10, or all")
        if name == "museum":
            command.add_argument("names", nargs="*", metavar="NAME", help="all by default")
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _verify(options: argparse.Namespace) -> int:
    began, verdicts = time.perf_counter(), []
    for path in options.files or catalogue.stored():
        start = time.perf_counter()
        verdicts.append(verify_file(path))
        _print(path.stem, verdicts[-1], f"{time.perf_counter() - start:6.2f} s")
    verified = [verdict for verdict in verdicts if verdict.outcome is Outcome.VERIFIED]
    absent = [] if options.files else catalogue.missing(verified)
    outcomes = Counter(verdict.outcome.value for verdict in verdicts)
    theorems, seconds = {verdict.theorem for verdict in verified}, time.perf_counter() - began
    print(f"\n{_table(verified)}")
    print(f"\n{len(verdicts)} certificates in {seconds:.1f} s: {_counts(outcomes)}; {len(theorems)} theorems")
    print(f"how they are known: {_counts(Counter(verdict.status.split('(')[0] for verdict in verified))}")
    print(f"trusted: {catalogue.trusted_lines()} lines of {len(catalogue.TRUSTED)} modules, and Python")
    if absent:
        print(f"no certificate: {', '.join(absent)}")
    return int(bool(absent) or set(outcomes) != {"VERIFIED"})


def _table(verified: list[Verdict]) -> str:
    """Claims that were verified: how much of which theorem each is, and by how many certificates."""
    rows = [("theorem", "how much of it", "of what, or what is left to prose", "claim", "certificates")]
    for claim, count in Counter(verdict.bound for verdict in verified if verdict.bound).items():
        rows.append((claim.theorem, claim.extent, claim.scope, f"{claim.kind} {claim.name}", str(count)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _prove(options: argparse.Namespace) -> int:
    theorems = catalogue.THEOREMS if options.theorems == ["all"] else options.theorems
    good = True
    for theorem in theorems:
        for name, verdict in catalogue.prove(theorem).items():
            _print(name, verdict)
            good &= verdict.outcome is Outcome.VERIFIED
    return int(not good)


def _mutate(options: argparse.Namespace) -> int:
    del options
    began, outcomes = time.perf_counter(), Counter()
    with ProcessPoolExecutor() as pool:
        for path, tried in zip(catalogue.stored(), pool.map(_mutated, catalogue.stored()), strict=True):
            outcomes.update(outcome.value for _, outcome in tried)
            for what, outcome in tried:
                if outcome is Outcome.VERIFIED:
                    print(f"SURVIVED {path.stem}: {what}")
    total, seconds = outcomes.total(), time.perf_counter() - began
    rejected = total - outcomes["VERIFIED"]
    print(f"{rejected} of {total} mutants rejected in {seconds:.1f} s: {_counts(outcomes)}")
    return int(rejected < total or not total)


def _mutated(path: Path) -> list[tuple[str, Outcome]]:
    certificate = json.loads(path.read_text())
    return [(what, verify(json.dumps(mutant)).outcome) for what, mutant in mutants(certificate)]


def _museum(options: argparse.Namespace) -> int:
    from proofs_check.museum import CLAIMS, refute

    good = True
    for name in options.names or CLAIMS:
        began = time.perf_counter()
        refutation = refute(name)
        seconds = time.perf_counter() - began
        good &= seconds < 10
        print(f"{name} ({refutation.how}, {seconds:.2f} s)\n  claim:   {CLAIMS[name].statement}")
        print(f"  source:  {CLAIMS[name].source}\n  refuted: {refutation.text}\n")
    return int(not good)


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counter.items())


def _print(name: str, verdict: Verdict, seconds: str = "") -> None:
    text = verdict.claim if verdict.outcome is Outcome.VERIFIED else verdict.reason
    line = f"{verdict.outcome.value:9} {shown(name, most=40):26} {verdict.theorem:3} {seconds}"
    print(f"{line} {verdict.status:34} {shown(text, most=150)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

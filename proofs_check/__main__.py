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
    began, verdicts = time.perf_counter(), {}
    with ProcessPoolExecutor() as pool:
        for path, verdict, seconds in pool.map(_verified, options.files or catalogue.stored()):
            verdicts[path.stem] = verdict
            _print(path.stem, verdict, f"{seconds:6.2f} s")
    absent = [] if options.files else catalogue.missing(verdicts)
    statuses = Counter(verdict.status.split("(")[0] for verdict in verdicts.values() if verdict.status)
    outcomes = Counter(verdict.outcome.value for verdict in verdicts.values())
    theorems, seconds = {verdict.theorem for verdict in verdicts.values()}, time.perf_counter() - began
    print(
        f"\n{len(verdicts)} certificates of {len(theorems)} theorems in {seconds:.1f} s: {_counts(outcomes)}"
    )
    print(f"how they are known: {_counts(statuses)}")
    if absent:
        print(f"no certificate: {', '.join(absent)}")
    return int(bool(absent) or set(outcomes) != {"VERIFIED"})


def _verified(path: Path) -> tuple[Path, Verdict, float]:
    began = time.perf_counter()
    return path, verify_file(path), time.perf_counter() - began


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
    print(f"{verdict.outcome.value:9} {name:26} {seconds} {verdict.status:34} {text[:150]}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

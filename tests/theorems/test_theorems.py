"""Every theorem: samples satisfy it, violators break one hypothesis and the bound, mutants are rejected."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from deltatheory import theorems
from deltatheory.theorems import FAMILIES, THEOREMS, Evidence
from deltatheory.theorems.evidence import SEARCHED_INSTANCES, ProofStatus, agree_exactly

SEEDS = 8
CASES = list(THEOREMS.values())
HYPOTHESES = [(t, h) for t in CASES for h in t.hypotheses]


def label(case) -> str:
    return case.id if hasattr(case, "id") else case.name.replace(" ", "-")


@pytest.mark.parametrize("theorem", CASES, ids=label)
def test_samples_satisfy_all_hypotheses_and_the_bound(theorem) -> None:
    decided = 0
    for seed in range(SEEDS):
        instance = theorem.sampler(seed)
        rounded, exact = theorem.check(instance), theorem.check(instance, exact=True)
        assert rounded.unmet == ()
        assert rounded.holds, rounded
        assert exact.holds is not False, exact
        assert exact.holds or exact.ratio > 1 - 1e-12, f"undecided though far from equality: {exact}"
        decided += exact.holds is True
    assert decided >= SEEDS / 2


@pytest.mark.parametrize(("theorem", "hypothesis"), HYPOTHESES, ids=label)
def test_without_a_hypothesis_the_bound_fails(theorem, hypothesis) -> None:
    for seed in range(3):
        witness = hypothesis.violator(seed)
        assert theorem.unmet(witness) == (hypothesis.name,)
        assert theorem.check(witness, exact=True).holds is False
        assert theorem.check(witness).holds is False


@pytest.mark.parametrize("theorem", CASES, ids=label)
def test_the_mutant_is_rejected(theorem) -> None:
    mutated = replace(theorem, sides=theorem.mutant.sides)
    for seed in range(2):
        instance = theorem.mutant.instance(seed)
        assert theorem.unmet(instance) == ()
        assert theorem.check(instance, exact=True).holds is not False
        assert mutated.check(instance, exact=True).holds is False


class Recorded(dict):
    """An instance that remembers which of its entries were read."""

    def __init__(self, instance: dict, read: set[str]) -> None:
        super().__init__(instance)
        self.read = read

    def __getitem__(self, name):
        self.read.add(name)
        return super().__getitem__(name)

    def __or__(self, other):
        return Recorded(dict.__or__(self, other), self.read)


@pytest.mark.parametrize("theorem", CASES, ids=label)
def test_the_entries_of_an_instance_are_what_is_read_of_it(theorem) -> None:
    samplers = [theorem.sampler, theorem.mutant.instance, *(h.violator for h in theorem.hypotheses)]
    read: set[str] = set()
    for instance in (sampler(seed) for sampler in samplers for seed in range(2)):
        assert set(theorem.entries) <= set(instance)
        recorded = Recorded(instance, read)
        theorem.sides(recorded)
        assert all(isinstance(hypothesis.predicate(recorded), bool) for hypothesis in theorem.hypotheses)
    assert read == set(theorem.entries)
    assert all(theorem.entries.values())


@pytest.mark.parametrize("theorem", [t for t in CASES if t.extremal], ids=label)
def test_extremal_instances_attain_the_bound(theorem) -> None:
    for seed in range(2):
        instance = theorem.extremal(seed)
        assert theorem.unmet(instance) == ()
        assert theorem.check(instance).ratio == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("theorem", [t for t in CASES if t.kind == "tight"], ids=label)
def test_tight_means_attained(theorem) -> None:
    assert theorem.extremal is not None


@pytest.mark.parametrize("theorem", [t for t in CASES if t.kind != "identity"], ids=label)
def test_no_side_can_be_scaled_by_a_tenth_unnoticed(theorem) -> None:
    """Where a bound is attained, or closest, a right side stronger by a tenth fails."""
    assert (theorem.extremal is None) is (theorem.reach < 1)
    nearest = theorem.extremal or theorem.closest
    instance = nearest(0)
    assert theorem.unmet(instance) == ()
    assert theorem.check(instance).ratio == pytest.approx(
        theorem.reach, abs=2e-4 if theorem.reach < 1 else 1e-9
    )
    stronger = Fraction(9, 10) * Fraction(theorem.reach)

    def sides(x):
        left, right = theorem.sides(x)
        return left, right / stronger if theorem.kind == "lower" else right * stronger

    assert replace(theorem, sides=sides).check(instance, exact=True).holds is False


@pytest.mark.parametrize("theorem", [t for t in CASES if t.kind == "identity"], ids=label)
def test_no_side_of_an_identity_can_be_scaled_by_a_tenth_unnoticed(theorem) -> None:
    scaled = replace(theorem, sides=lambda x: (theorem.sides(x)[0], theorem.sides(x)[1] * Fraction(9, 10)))
    instances = [theorem.sampler(seed) for seed in range(4)]
    zero = all(
        not np.any(theorem.exact_bound(x).right) for x in instances
    )  # T32a: a derivative that vanishes
    assert zero is (theorem.id in ("T08", "T32a"))
    assert zero or any(scaled.check(x, exact=True).holds is False for x in instances)


@pytest.mark.parametrize("theorem", [t for t in CASES if t.exact_check], ids=label)
def test_exact_checks_pass(theorem) -> None:
    assert theorem.exact_check()


@pytest.mark.parametrize("theorem", [t for t in CASES if t.exact_check and t.kind == "identity"], ids=label)
def test_identity_tests_use_the_sides_of_the_theorem(theorem) -> None:
    """The check must fail for the mutant: it reads two points of numbers with 40 bits."""

    assert not agree_exactly(theorem.mutant.sides, theorem.mutant.instance, 2)


@pytest.mark.slow
@pytest.mark.parametrize("theorem", [t for t in CASES if t.status.evidence is Evidence.SEARCHED], ids=label)
def test_as_many_instances_as_the_status_says(theorem) -> None:
    verdicts = [theorem.check(theorem.sampler(seed), exact=True).holds for seed in range(SEARCHED_INSTANCES)]
    assert False not in verdicts
    assert theorem.status == ProofStatus.searched(verdicts.count(None))


def test_proofs_have_stored_certificates() -> None:
    """A status says proved only where `proofs_check` holds a certificate of that kind, re-verified here."""
    from proofs_check.catalogue import stored
    from proofs_check.verifier import Outcome, verify_file

    wanted = {
        Evidence.PROVED_EXACT: {"performance", "interval"},
        Evidence.PROVED_IDENTITY: {"identity"},
    }
    kinds: dict[str, set[str]] = {}
    for path in stored():
        certificate = json.loads(path.read_text())
        kinds.setdefault(certificate["theorem"], set()).add(certificate["kind"])
    for theorem in CASES:
        if theorem.status.evidence in wanted:
            assert kinds[theorem.statement] & wanted[theorem.status.evidence], theorem
    first = next(path for path in stored() if path.name.startswith("T02"))
    assert verify_file(first).outcome is Outcome.VERIFIED


def test_a_theorem_names_its_certificates() -> None:
    """All claims of the registry that are of its statement, and no others; its parts share them out."""
    from proofs_check.claims import CLAIMS

    named: dict[str, set[str]] = {}
    for theorem in CASES:
        named.setdefault(theorem.statement, set()).update(theorem.certificates)
    claimed: dict[str, set[str]] = {statement: set() for statement in named}
    for claim in CLAIMS.values():
        claimed[claim.theorem].add(claim.name)
    assert named == claimed


def test_every_module_that_registers_theorems_is_of_one_family() -> None:
    modules = sorted(module for family in FAMILIES.values() for module in family)
    sources = {path.stem: path.read_text() for path in Path(theorems.__file__).parent.glob("*.py")}
    assert modules == sorted(name for name, source in sources.items() if "= register(\n" in source)
    assert {theorem.sides.__module__.rsplit(".")[-1] for theorem in CASES} <= set(modules)


def test_what_was_not_read_in_its_source_is_marked() -> None:
    """docs/sources.md says of every paper behind a theorem how much was read; the mark follows from it."""
    table = (Path(__file__).parents[2] / "docs" / "sources.md").read_text()
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| ")][1:]
    papers: dict[str, dict[str, str]] = {}
    for paper, ids, read, what in ([cell.strip() for cell in row] for row in rows):
        assert read in {"text", "restated", "abstract", "not read"}
        assert what or read == "not read"
        for id in ids.split(", "):
            assert paper in THEOREMS[id].source, (id, paper)
            papers.setdefault(id, {})[paper] = read
    for theorem in CASES:
        behind = papers.get(theorem.id, {})
        unread = {"abstract", "not read"} & set(behind.values())
        assert ("recalled" in theorem.source) == bool(unread), theorem
        rest = theorem.source
        for paper in behind:
            rest = rest.replace(paper, "")
        assert not re.search(r"\b(18|19|20)\d\d\b", rest), theorem


def test_the_collection() -> None:
    exact = [t for t in CASES if t.status.evidence not in (Evidence.SEARCHED, Evidence.RECALLED)]
    assert len(exact) >= 45
    assert len(CASES) >= 80
    assert len(HYPOTHESES) >= 120
    assert all(t.rational for t in CASES)
    assert all(t.exact_check for t in exact if t.status.evidence is Evidence.ENUMERATED)
    assert all(t.exact_check for t in exact if t.status.evidence is Evidence.IDENTITY_TESTED)
    assert all(t.status.detail for t in CASES)
    names = [(t.id, h.name) for t, h in HYPOTHESES]
    assert len(names) == len(set(names))

"""Every kind of forgery is told, with its reason; what is sound is verified as the registry words it."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
from certificate_corpus import SOUND, changed, forged, load

from proofs_check import catalogue
from proofs_check.__main__ import main
from proofs_check.certificate import Undecided, seal
from proofs_check.claims import CLAIMS, FIELDS, bound
from proofs_check.enumerations import ENUMERATIONS
from proofs_check.evaluations import EVALUATIONS
from proofs_check.identities import IDENTITIES
from proofs_check.verifier import KINDS, Outcome, verify

FORGED = forged()
STORED = [path.stem for path in catalogue.stored()]


@pytest.mark.parametrize(("text", "outcome", "reason"), [f[1:] for f in FORGED], ids=[f[0] for f in FORGED])
def test_no_forgery_is_verified(text: str, outcome: str, reason: str):
    verdict = verify(text)
    assert verdict.outcome.value == outcome
    assert reason in verdict.reason


def test_what_is_sound_is_verified():
    assert {verify(json.dumps(load(name))).outcome for name in SOUND} == {Outcome.VERIFIED}


def test_no_claim_is_proved_by_a_certificate_of_another_theorem():
    theorems = {claim.theorem for claim in CLAIMS.values()}
    for claim in CLAIMS.values():
        body = next(body for body in map(load, STORED) if _is_of(body, claim))
        assert bound(body) is claim
        for theorem in theorems - {claim.theorem}:
            with pytest.raises(Undecided, match=f"a claim of {claim.theorem}, not of {theorem}"):
                bound(body | {"theorem": theorem})


def _is_of(certificate: dict, claim) -> bool:
    return certificate["kind"] == claim.kind and certificate["data"][FIELDS[claim.kind][0]] == claim.name


def test_copies_of_one_trivial_certificate_prove_nothing(tmp_path, capsys):
    """Once 38 copies of x + x = 2x gave "38 certificates of 38 theorems"."""
    files = []
    for theorem in catalogue.THEOREMS:
        data = {"name": "prefix_is_gate", "pairs": [[["+", "x", "x"], ["*", 2, "x"]]]}
        files.append(tmp_path / f"{theorem}.json")
        files[-1].write_text(json.dumps(seal(theorem, "identity", data)))
    assert main(["verify", *map(str, files)]) == 1
    assert f"{len(files)} UNDECIDED; 0 theorems" in capsys.readouterr().out


def test_nothing_of_a_file_is_printed_as_it_stands(tmp_path, capsys):
    """Neither what it holds nor what it is called makes a line of its own, a colour or a verdict."""
    bad = tmp_path / "a\nVERIFIED  T10\x1b[1m.json"
    data = {"name": "x\nVERIFIED  T10 \x1b[32m\u202e", "pairs": []}
    bad.write_text(json.dumps(seal("T10\nVERIFIED", "identity", data)))
    assert main(["verify", str(bad)]) == 1
    out = capsys.readouterr().out
    assert not re.search(r"^VERIFIED", out, re.MULTILINE)
    assert out.isascii()
    assert "\x1b" not in out
    assert verify(bad.read_bytes()).reason.isascii()


def test_an_identity_is_worded_by_the_registry_alone():
    """Words of a file that cancel, as 0 times a variable's name, were printed with the claim."""
    ((left, right),) = load("T24-identity")["data"]["pairs"]
    verdict = verify(changed("T24-identity", pairs=[[["+", left, ["*", 0, "T31_is_proved_too"]], right]]))
    assert verdict == verify(json.dumps(load("T24-identity")))
    assert verdict.outcome is Outcome.VERIFIED


def test_every_object_is_of_one_claim_and_every_claim_of_an_object():
    tables = {"enumeration": ENUMERATIONS, "evaluation": EVALUATIONS, "identity": IDENTITIES}
    for kind, table in tables.items():
        assert {claim.name for claim in CLAIMS.values() if claim.kind == kind} == set(table)
        for claim in (claim for claim in CLAIMS.values() if claim.kind == kind):
            entry = table[claim.name]
            words = getattr(entry, "sides", getattr(entry, "cases", entry)).__doc__
            assert words.startswith(f"{claim.theorem}: ")
    assert set(KINDS) == set(FIELDS) == {claim.kind for claim in CLAIMS.values()}
    for claim in CLAIMS.values():
        if claim.kind == "enumeration":
            assert claim.scope.endswith(f"<= {ENUMERATIONS[claim.name].span[1]}")


def test_the_registry_has_a_verified_certificate_for_every_claim():
    verified = []
    for certificate in map(load, STORED):
        claim = CLAIMS[certificate["kind"], certificate["data"][FIELDS[certificate["kind"]][0]]]
        assert claim.theorem == certificate["theorem"]
        verified.append(claim)
    assert set(verified) == set(CLAIMS.values())
    assert catalogue.missing([]) == [f"{c.theorem} {c.kind} {c.name}" for c in CLAIMS.values()]
    steps = Counter(claim.name for claim in verified)
    assert steps["gradient_descent_in_subspace"] == steps["gradient_descent"] == 30


def test_the_points_of_an_identity_test_come_from_the_certificate(monkeypatch: pytest.MonkeyPatch):
    """Other data, other points; the same data, the same points, and the bound on the error is told."""
    drawn: list[list] = []
    telescoping = EVALUATIONS["telescoping"]

    def sides(draw, sign, **sizes):
        """T20: watched."""
        drawn.append(draw(2, 2))
        return telescoping.sides(draw, sign, **sizes)

    monkeypatch.setitem(EVALUATIONS, "telescoping", type(telescoping)(sides, telescoping.sizes))
    verdicts = [verify(changed("T20-evaluation", rounds=rounds)) for rounds in (2, 2, 3)]
    assert [verdict.outcome for verdict in verdicts] == [Outcome.VERIFIED] * 3
    assert drawn[:2] == drawn[2:4]
    assert len({str(points) for points in drawn}) == 5
    bits = [int(re.search(r"error <= 2\^-(\d+)", verdict.status)[1]) for verdict in verdicts]
    assert bits[0] == bits[1] < bits[2]
    coordinates = [abs(x) for points in drawn for row in points for x in row]
    assert 1 << 40 < max(coordinates) <= 1 << 47


def test_what_t09_prints_is_about_the_subspace():
    claim = verify(json.dumps(load("T09-2-steps-1-2-closed"))).claim
    assert "F = f on the subspace S" in claim
    assert "- min_S F <= 1/6 L ||x0-x*_S||^2" in claim
    claim = verify(json.dumps(load("T10-2-steps-1-2-closed"))).claim
    assert "f(x_2) - min f <= 1/6 L ||P(x0-x*)||^2 + 1/2 L ||Q(x0-x*)||^2" in claim
    assert "integers times 1," in verify(json.dumps(load("X3-two-units"))).claim

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from proofs_check.__main__ import main
from proofs_check.catalogue import FOLDER

BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('torch', 'numpy', 'cvxpy', 'sympy', 'flint', 'deltatheory'):
            raise ImportError(name)
sys.meta_path.insert(0, Block())
from proofs_check.__main__ import main
"""


def test_verify_needs_no_solver_and_no_torch():
    files = [
        str(FOLDER / f"{name}.json") for name in ("T09-3-steps-1-1-closed", "T24-identity", "X3-two-units")
    ]
    script = f"{BLOCKED}\nif __name__ == '__main__': sys.exit(main(['verify', *{files!r}]))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=FOLDER.parents[1]
    )
    assert done.returncode == 0, done.stderr
    assert "3 certificates in" in done.stdout
    assert "3 VERIFIED; 3 theorems" in done.stdout
    assert "2 proved_exact, 1 proved_identity" in done.stdout
    assert re.search(
        r"^T24 +instance +2 tokens of prefix beside 4 +identity prefix_is_gate +1$", done.stdout, re.M
    )


def test_verify_fails_on_a_damaged_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    damaged = tmp_path / "T24-identity.json"
    damaged.write_text((FOLDER / "T24-identity.json").read_text().replace("E0", "E1", 1))
    assert main(["verify", str(damaged)]) == 1
    assert "UNDECIDED" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "absent.json")]) == 1


def test_unknown_names_are_errors(capsys: pytest.CaptureFixture[str]):
    assert main(["prove", "T99"]) == 2
    assert "theorem='T99' has no prover" in capsys.readouterr().err
    assert main(["museum", "unicorn"]) == 2
    assert "not in the museum" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([])


def test_museum_prints_claim_and_witness(capsys: pytest.CaptureFixture[str]):
    assert main(["museum", "msa-descends", "gordon-converse"]) == 0
    out = capsys.readouterr().out
    assert out.count("claim:") == out.count("refuted:") == 2


def test_everything_stored_is_verified_in_ten_seconds_of_one_core(capsys: pytest.CaptureFixture[str]):
    began = time.process_time()
    assert main(["verify"]) == 0
    assert time.process_time() - began < 10
    out = capsys.readouterr().out
    assert "no certificate" not in out
    for extent in ("complete", "step by prose", "instance", "enumerated"):
        assert re.search(rf"^T\d\d +{extent} ", out, re.MULTILINE)

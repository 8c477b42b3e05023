"""What runs on a GPU is rehearsed on the CPU."""

import pytest
import typer
from device_cases import predicted_rate

from deltatheory.results import ResultLog
from experiments import gpu
from experiments.studies import STUDIES


def test_every_study_of_it_is_there_and_names_its_tasks_or_a_number():
    for name, tasks in gpu.STUDIES:
        assert name in STUDIES
        assert tasks or STUDIES[name].TASK_NAMES


def test_the_whole_is_no_longer_than_its_minutes(tmp_path):
    parts = list(gpu.parts(tmp_path, tmp_path, rehearse=False, workers=2))
    assert [part.name for part in parts][:2] == ["tests", "large"]
    assert all("cuda" in " ".join(part.arguments) for part in parts)


@pytest.mark.slow
def test_a_rehearsal_ends_well_and_is_not_run_again(tmp_path):
    asked = {"out": tmp_path, "rehearse": True, "only": "large"}
    gpu.main(**asked)
    log = ResultLog(tmp_path / "parts.jsonl")
    assert [row["result"]["ended"] for row in log.rows()] == ["well"]
    assert "full kernel" in (tmp_path / "large-cpu.md").read_text()
    gpu.main(**asked)
    assert len(log.rows()) == 1


def test_what_is_asked_amiss_is_refused(tmp_path):
    with pytest.raises(typer.BadParameter, match=r"data|folder"):
        gpu.main(out=tmp_path)
    with pytest.raises(typer.BadParameter, match=r"sing: parts are tests, large"):
        gpu.main(out=tmp_path, rehearse=True, only="sing")


def test_the_learning_rate_on_a_gpu_is_rehearsed():
    assert predicted_rate("cpu") == pytest.approx(predicted_rate("cpu"), rel=1e-6)

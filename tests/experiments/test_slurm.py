"""The runner against a real slurmctld: a cluster of one host, where Slurm and MUNGE are installed."""

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from squares import SCOPE, Squares, Study, results

from deltatheory.results import ResultLog
from experiments.runner import LOG, Cluster, Local, run

ROOT = Path(__file__).parents[2]
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "sinfo")
CONF = """
ClusterName=one
SlurmctldHost=localhost
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1
NodeName=localhost CPUs={cpus}
PartitionName=all Nodes=ALL Default=YES
"""


def free_ports(count):
    sockets = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def said(command, what):
    """Wait for a command's answer, at most 30 seconds."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if what(subprocess.run(command, capture_output=True, text=True).stdout):
            return True
        time.sleep(0.2)
    return False


@pytest.fixture
def slurm(monkeypatch):
    """A controller and a node of our own, on free ports, in the foreground."""
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if missing := [name for name in PROGRAMS if not shutil.which(name)]:
        pytest.skip(f"needs Slurm and MUNGE; there is no {', '.join(missing)}")
    folder = Path(tempfile.mkdtemp(prefix="slurm"))  # a socket's path is short
    (folder / "spool").mkdir()
    (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
    (folder / "munge.key").chmod(0o600)
    conf = folder / "slurm.conf"
    conf.write_text(
        CONF.format(user=getpass.getuser(), folder=folder, ports=free_ports(2), cpus=os.cpu_count())
    )
    monkeypatch.setenv("SLURM_CONF", str(conf))
    files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    munge = ["munged", "--foreground", "--force", *(f"--{k}={folder}/munge.{v}" for k, v in files.items())]
    daemons = []
    try:
        for command in (munge, ["slurmctld", "-D", "-c"], ["slurmd", "-D", "-N", "localhost"]):
            daemons.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            time.sleep(1)
        if not said(["sinfo", "-h", "-o", "%T"], lambda states: "idle" in states):
            pytest.skip(f"Slurm does not start here: {(folder / 'slurmctld.log').read_text()[-300:]}")
        yield
        said(["squeue", "-h"], lambda jobs: not jobs)  # without a controller the last steps would linger
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(20)
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_jobs_of_a_real_controller_find_what_one_process_finds(tmp_path, slurm, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    place = Squares()
    place.start()
    whole = run(Study(), SCOPE, tmp_path / "whole", place, Local(), say=lambda _: None)
    cluster = Cluster(jobs=2, timeout_min=2)
    assert run(Study(), SCOPE, tmp_path / "jobs", place, cluster, say=lambda _: None) == whole
    assert results(tmp_path / "jobs") == results(tmp_path / "whole")
    assert list((tmp_path / "jobs" / "jobs").glob("*_log.out"))  # they did run as jobs
    assert not list((tmp_path / "jobs").glob("part-*"))


@pytest.mark.slow
def test_the_command_runs_a_study_on_slurm(tmp_path, slurm):
    pytest.importorskip("submitit")
    command = [sys.executable, "-m", "experiments", "run", "efficiency", "--on", "slurm", "--workers", "2"]
    hollow = tmp_path / "hollow"  # it is there, and cannot be read
    hollow.mkdir()
    (hollow / "config.json").write_text("{}")
    (hollow / "model.safetensors").touch()
    scope = ["--models", str(hollow), "--tasks", "stdlib-topics", "--job", "timeout_min=2"]
    done = subprocess.run(
        [*command, *scope, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert "trials are missing" in done.stdout, done.stderr
    assert done.returncode == 1
    rows = ResultLog(tmp_path / LOG).rows()
    assert rows
    assert all("hollow" in row["result"]["error"] for row in rows)  # the jobs ran, and said why not

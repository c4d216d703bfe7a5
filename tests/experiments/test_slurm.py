"""Runs of a comparison as jobs of a cluster, which a few small programs stand for."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from experiments import compare
from experiments.comparison import single_run
from experiments.comparison.running import side_by_side
from experiments.comparison.slurm import Cluster, Job, RunTask
from federated.server import run as rounds
from fps_pretrain.common.errors import UserError
from tests.experiments import fake_slurm
from tests.experiments.runs import table
from tests.experiments.test_jobs import FLAGS, TINY, without_times

pytest.importorskip("submitit")


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, value in fake_slurm.install(folder).items():
        monkeypatch.setenv(name, value)
    return folder


def test_a_comparison_is_that_of_one_machine(tmp_path, slurm, capsys):
    output = tmp_path / "c"
    flags = [*FLAGS, "--inits", "random", "--seeds", "0", "--slurm", "time=5", "partition=cpu", "--output", str(output)]
    assert compare.main(compare.parse(flags)) == 0
    assert table(output / "summary.csv")[0]["seeds"] == "1"
    script = next((output / "slurm").glob("*.sh")).read_text()
    assert {"#SBATCH --time=5", "#SBATCH --partition=cpu"} <= set(script.splitlines())
    alone = tmp_path / "alone"
    rounds.run(replace(TINY, output=alone), quiet=True)
    assert without_times(output / "runs" / "random-s0") == without_times(alone)
    assert not list((output / "slurm").glob("tmp*")), "the configurations are gone"


def test_a_job_has_an_hour_and_a_hundred_starts_unless_told_otherwise(tmp_path, slurm):
    jobs = Cluster(["gpus-per-node=2"], tmp_path / "jobs")._executor
    assert (jobs.parameters["time"], jobs.parameters["gpus_per_node"]) == (60, 2)
    assert jobs.max_num_timeout == 100
    assert Cluster(["time=5"], tmp_path / "jobs")._executor.parameters["time"] == 5


@pytest.mark.parametrize(
    ("job", "code", "said"),
    [
        ({"stderr": "no memory\nleft\n", "result": 3}, 3, "no memory\nleft\n"),
        ({"stderr": "", "result": RuntimeError("it left nothing")}, 1, "job 7: NODE_FAIL"),
        ({"stderr": None, "result": 0}, 0, "job 7: NODE_FAIL"),
    ],
)
def test_what_became_of_a_job_is_known_at_its_end(tmp_path, job, code, said):
    def result():
        if isinstance(job["result"], Exception):
            raise job["result"]
        return job["result"]

    state = SimpleNamespace(done=False)
    known = SimpleNamespace(
        done=lambda: state.done, stderr=lambda: job["stderr"], result=result, job_id="7", state="NODE_FAIL"
    )
    run = Job(known, tmp_path / "errors.txt")
    assert (run.poll(), run.wait(), run.returncode) == (None, None, None)
    state.done = True
    assert (run.poll(), run.wait(), run.returncode) == (code, code, code)
    assert (tmp_path / "errors.txt").read_text() == said


def test_a_job_ends_with_the_exit_code_of_its_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "run.yaml").write_text("rounds: 0\n")
    assert RunTask(tmp_path / "run.yaml", 1)() == 2
    assert "--rounds must be at least 1" in capsys.readouterr().err
    monkeypatch.setattr(single_run, "main", lambda path: 4)
    assert RunTask(tmp_path / "run.yaml", 1)() == 4


def test_a_job_that_fails_says_why(tmp_path, slurm):
    run = replace(TINY, output=tmp_path / "r", dataset=f"folder:{tmp_path / 'nowhere'}")
    failures = side_by_side([run], 1, Cluster(["time=5"], tmp_path / "jobs"))
    assert list(failures) == [run.folder]
    assert "nowhere" in failures[run.folder].reason
    assert failures[run.folder].reason.endswith("(exit code 2)")


def test_an_interruption_cancels_the_jobs(tmp_path, slurm, monkeypatch):
    run = replace(TINY, output=tmp_path / "r", rounds=10_000)

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.comparison.running.time.sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        side_by_side([run], 1, Cluster(["time=5"], tmp_path / "jobs"))
    assert (slurm / "1.code").read_text() == "9"


def test_a_job_whose_time_is_up_is_the_same_again(tmp_path):
    arm = RunTask(tmp_path / "run.yaml", 2)
    again = arm.checkpoint()
    assert again.function is arm


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["240"], "--slurm takes NAME=VALUE, such as time=240 or partition=gpu, got '240'"),
        (["time=4:00:00"], "--slurm time must be a whole number of minutes, got '4:00:00'"),
    ],
)
def test_options_that_are_none_are_refused_at_once(tmp_path, options, line, capsys):
    with pytest.raises(SystemExit) as exit_:
        compare.parse([*FLAGS, "--inits", "random", "--slurm", *options, "--output", str(tmp_path / "c")])
    assert exit_.value.code == 2
    assert line in capsys.readouterr().err


def test_what_sbatch_does_not_know_is_refused(tmp_path, slurm):
    with pytest.raises(UserError, match=r"--slurm: Unavailable parameter\(s\): \['partitoin'\]"):
        Cluster(["partitoin=gpu"], tmp_path / "jobs")
    assert not (tmp_path / "jobs").exists()


def test_a_machine_without_slurm_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="--slurm: this machine has no srun; start the comparison where sbatch works"):
        Cluster(["time=5"], tmp_path / "jobs")


def test_a_job_that_slurm_refuses(tmp_path, slurm):
    (slurm / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: cpu' >&2\nexit 1\n")
    with pytest.raises(UserError, match=r"--slurm: sbatch refused the job: .*invalid partition"):
        Cluster(["partition=cpu"], tmp_path / "jobs").start(tmp_path / "run.yaml", tmp_path / "errors", 1, 1)

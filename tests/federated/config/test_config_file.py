from __future__ import annotations

from pathlib import Path

import pytest

import run_fl
from federated.config.file import expand
from federated.config.run import RunConfig, to_yaml
from fps_pretrain.common.errors import UserError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Options as a user writes them, with either kind of dash."""
    path = tmp_path / "run.yaml"
    path.write_text(
        "partition: shards\nshards-per-client: 3\nlocal_epochs: 4\ntensorboard: true\nlimit_train: null\n"
        "strategy: fedprox\nprox_mu: 0.5\n"
    )
    return path


def parse(file: Path, *flags: str) -> RunConfig:
    return run_fl.parse(["--config", str(file), *flags]).run


def test_a_file_says_what_flags_say(file: Path) -> None:
    expected = RunConfig(
        partition="shards", shards_per_client=3, local_epochs=4, tensorboard=True, strategy="fedprox", prox_mu=0.5
    )
    assert parse(file) == expected
    assert run_fl.parse([f"--config={file}"]).run == expected


def test_flags_override_it_wherever_they_stand(file: Path) -> None:
    assert parse(file, "--local-epochs", "2").local_epochs == 2
    assert run_fl.parse(["--local-epochs", "2", "--config", str(file)]).run.local_epochs == 2
    assert not parse(file, "--no-tensorboard").tensorboard


def test_a_flag_that_chooses_otherwise_drops_the_details_of_the_files_choice(file: Path) -> None:
    config = parse(file, "--partition", "iid", "--strategy=fedavg")
    assert (config.partition, config.shards_per_client, config.prox_mu) == ("iid", None, None)
    assert parse(file, "--partition", "shards", "--shards-per-client", "5").shards_per_client == 5


def test_a_value_is_not_taken_for_the_flag_of_its_name(file: Path) -> None:
    config = parse(file, "--output", "strategy")
    assert (config.strategy, config.prox_mu, config.output) == ("fedprox", 0.5, Path("strategy"))
    assert parse(file, "--output", "partition").shards_per_client == 3


def test_a_run_folders_configuration_is_such_a_file(tmp_path: Path) -> None:
    config = RunConfig(rounds=3, strategy="scaffold", partition="pathological", output=tmp_path / "run")
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert parse(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("a: [", "is not YAML"),
        ("- rounds", "must map options to values"),
        ("lerning_rate: 1", "options that there are not: lerning_rate"),
        ("lr: [0.1, 0.2]", "lr must be a single value"),
    ],
)
def test_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, words: str) -> None:
    path = tmp_path / "run.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit) as exit_:
        run_fl.parse(["--config", str(path)])
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"rounds: 3\nlr: -1\n", "run.yaml: --lr must satisfy 0 < value, got -1"),
        (b"clients: ten\n", "run.yaml: --clients must be of type int, got 'ten'"),
        (b"clients: true\n", "run.yaml: --clients must be of type int, got True"),
        (b"partition: random\n", "run.yaml: --partition random is unknown: choose one of iid"),
        (b"lr: &a [*a]\n", "run.yaml"),
        (b"lr: .inf\n", "run.yaml: --lr must satisfy 0 < value, got inf"),
        (b"rounds: 2024-02-31\n", "run.yaml, line 1: rounds is not a value"),
        (b"rounds: 1\nrounds: 2\n", "run.yaml, line 2: rounds is there twice"),
        (b"local-epochs: 1\nlocal_epochs: 2\n", "run.yaml: local_epochs is there twice"),
        (b"rounds: \x00", "run.yaml is not YAML"),
        (b"seed: " + b"9" * 5000, "run.yaml, line 1: seed is not a value"),
        (b"lr: {a: 1}\n", "run.yaml: lr must be a single value"),
        (b"partition: iid\nalpha: 0.3\n", "--alpha goes with --partition dirichlet or inner-dirichlet, not with iid"),
    ],
)
def test_a_bad_value_is_one_line_with_file_and_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, words: str
) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(SystemExit) as exit_:
        run_fl.parse(["--config", str(path)])
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_numbers_as_people_write_them(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("lr: 1e-3\nprecision: 32\noutput: --help\nid_column:\naugment: none\n")
    config = parse(path)
    assert (config.lr, config.precision, config.output, config.augment) == (0.001, "32", Path("--help"), "none")


def test_a_runs_configuration_gives_way_to_another_choice(tmp_path: Path) -> None:
    """What belongs to the file's own choice is dropped, be it given or a default."""
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(RunConfig(alpha=0.7, strategy="scaffold", dp_noise=None)))
    assert parse(path).alpha == 0.7
    assert parse(path, "--partition", "iid", "--strategy", "fedadam") == RunConfig(partition="iid", strategy="fedadam")
    path.write_text(to_yaml(RunConfig(dp="adaptive", dp_secret=3)))
    assert parse(path).dp_secret == 3
    assert parse(path, "--dp", "none") == RunConfig()


def test_what_follows_from_a_files_options_is_not_as_if_given(tmp_path: Path) -> None:
    """A run's config.yaml holds ``bn_stats: average``, which nobody asked for."""
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(RunConfig()))
    assert parse(path, "--train", "head").bn_stats is None
    assert parse(path, "--dp", "fixed").bn_stats == "server"
    path.write_text(to_yaml(RunConfig(bn_stats="local")))
    with pytest.raises(SystemExit):
        parse(path, "--train", "head")


def test_one_file() -> None:
    with pytest.raises(UserError, match="--config may be given once"):
        expand(["--config", "a", "--config=b"])
    with pytest.raises(UserError, match="--config needs a file"):
        expand(["--lr", "1", "--config"])
    assert expand(["--lr", "1"]) == ["--lr", "1"]

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import run_fl
from experiments import compare
from federated.config.run import FIELDS, RunConfig, differences, from_yaml, identity, to_yaml
from fps_pretrain.common import yaml_file
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.options import Option, check_value
from tests.conftest import REPOSITORY


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(name, 0) for name in ("width", "clients", "min_partition_size", "rounds", "threads")],
        *[(name, 0) for name in ("local_epochs", "batch_size", "eval_every", "eval_batch_size", "limit_train")],
        *[(name, float("nan")) for name in ("validation", "alpha", "participation", "lr", "momentum", "weight_decay")],
        ("limit_test", 0),
        ("image_size", 4),
        ("seed", -1),
        ("validation", 1.0),
        ("alpha", 0.0),
        ("alpha", float("inf")),
        ("participation", 1.5),
        ("lr", 0.0),
        ("momentum", 1.0),
        ("weight_decay", -0.1),
        ("strategy", "fedfoo"),
        ("partition", "random"),
        ("dataset", "mnist"),
        ("dataset", "folder:"),
        ("dataset", "tiny-imagenet"),
        ("partition", "natural"),
        ("init", "torchvision:"),
        ("init", "torchvision:resnet18"),  # --arch is resnet20
        ("init", "random:"),
        ("init", "random:-1"),
        ("init", "random:99999999999"),
        ("per_client_every", -1),
        ("tensorboard", 1),
        ("clients", "ten"),
        ("clients", True),
        ("lr", None),
        ("data_dir", Path("somewhere")),  # digits need none
    ],
)
def test_values_out_of_range_name_their_flag(field: str, value: Any) -> None:
    with pytest.raises(UserError, match="--" + field.replace("_", "-")):
        RunConfig(**{field: value})


def test_yaml_keeps_values_and_types() -> None:
    config = RunConfig(dataset="cifar10", data_dir=Path("here"), limit_train=7, output=Path("there"), lr=0.1)
    assert from_yaml(to_yaml(config)) == config
    assert from_yaml(to_yaml(RunConfig())) == RunConfig()
    assert from_yaml("precision: 32") == RunConfig(precision="32")


@pytest.mark.parametrize(
    ("field", "value", "around"),
    [
        ("alpha", 0.1, {"partition": "iid"}),
        ("shards_per_client", 3, {}),
        ("classes_per_client", 3, {}),
        ("size_skew", "square", {}),
        ("id_column", "writer", {}),
        ("dp_noise", 2.0, {}),
        ("dp_quantile", 0.3, {"dp": "fixed"}),
    ],
)
def test_fields_that_the_choice_does_not_use_are_refused(field: str, value: Any, around: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"^--{field.replace('_', '-')} goes with --"):
        RunConfig(**{field: value, **around})


USED_BY = [(one.name, one.option) for one in FIELDS.values() if one.option.choice]


@pytest.mark.parametrize(("field", "option"), USED_BY, ids=lambda value: value if isinstance(value, str) else "")
def test_an_option_that_would_do_nothing_is_refused_whatever_its_value(
    field: str, option: Option, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the command line, in a file of a run, and from Python; the default of another choice, too."""
    taken = dict(option.defaults)
    others = {
        "partition": "iid",
        "strategy": "fednova",
        "norm": "group",
        "dp": "none",
        "engine": "inprocess",
        "train": "all",
    }
    other = others[option.choice]
    value = next(
        (default for default in taken.values() if default is not None),
        {"id_column": "x", "bn_stats": "average", "ray_address": "auto"}.get(field, 1),
    )
    words = f"--{field.replace('_', '-')} goes with --{option.choice} "
    with pytest.raises(UserError, match=words):
        RunConfig(**{option.choice: other, field: value})
    with pytest.raises(UserError, match=words):
        from_yaml(yaml_file.dump({option.choice: other, field: value}))
    given = [f"--{option.choice}={other}", f"--{field.replace('_', '-')}={value}"]
    for program in (run_fl, compare):
        with pytest.raises(SystemExit) as exit_:
            program.parse(given)
        assert exit_.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"error: {words}" in line
        assert line.endswith(f"not with {other} (see {program.PROG} --help)")


def test_what_a_choice_implies_is_worked_out_anew() -> None:
    assert replace(RunConfig(strategy="scaffold"), strategy="fedadam").server_lr == 0.01
    assert replace(RunConfig(strategy="fedprox"), strategy="fedavg").prox_mu is None
    assert replace(RunConfig(), dataset="tiny-imagenet", data_dir=Path("x")).image_size == 64
    assert replace(RunConfig(image_size=8), dataset="tiny-imagenet", data_dir=Path("x")).image_size == 8
    assert replace(RunConfig(), norm="group") == RunConfig(norm="group")


def test_every_default_is_in_its_range() -> None:
    for one in FIELDS.values():
        check_value(one, one.default)
        for _, default in one.option.defaults:
            check_value(one, default)


def test_the_options_of_a_strategy() -> None:
    options = RunConfig(strategy="bulyan", clients=11, malicious=2).algorithm_options()
    assert (asdict(options), options.least_replies, options.robust) == ({"malicious": 2}, 11, True)
    assert RunConfig(strategy="fedprox").algorithm_options().mean_only


def test_a_round_has_no_more_than_its_participants() -> None:
    half: dict[str, Any] = {"clients": 20, "participation": 0.5}
    assert RunConfig(min_clients=10, **half).participants == 10
    with pytest.raises(UserError, match="--min-clients 11 is more than the 10 of a round"):
        RunConfig(min_clients=11, **half)
    assert RunConfig(strategy="multikrum", selected=10, **half).selected == 10
    with pytest.raises(UserError, match="--selected 11 is more than the 10 participants of a round"):
        RunConfig(strategy="multikrum", selected=11, **half)


def test_the_servers_secret_stays_with_the_server() -> None:
    config = RunConfig(dp="fixed", dp_secret=987654321)
    assert "987654321" in to_yaml(config)
    sent = to_yaml(config, for_clients=True)
    assert "987654321" not in sent
    assert "dp_secret" not in sent
    received = from_yaml(sent)
    assert received == replace(config, dp_secret=None)
    assert identity(received) == identity(config)
    assert "987654321" not in identity(config)
    assert not differences(config, received)  # drawn, or from the run
    assert not differences(config, config)
    (line,) = differences(config, replace(config, dp_secret=5))
    assert line == "another --dp-secret"


def test_privacy_takes_batch_norms_statistics_from_the_server() -> None:
    assert (RunConfig().bn_stats, RunConfig(dp="fixed").bn_stats) == ("average", "server")
    assert replace(RunConfig(), dp="adaptive").bn_stats == "server"
    assert replace(RunConfig(dp="fixed"), dp="none").bn_stats == "average"
    assert RunConfig(dp="fixed", norm="group").bn_stats is None
    for given in ("average", "local"):
        with pytest.raises(UserError, match=f"--dp does not cover --bn-stats {given}.* or --norm group"):
            RunConfig(dp="fixed", bn_stats=given)
    with pytest.raises(UserError, match=r"--validation above 0: .*\(or --norm group\)"):
        RunConfig(dp="fixed", validation=0.0)


def test_details_have_the_defaults_of_their_choice() -> None:
    assert (RunConfig().alpha, RunConfig(partition="iid").alpha) == (0.3, None)
    assert RunConfig(partition="shards").shards_per_client == 2
    assert replace(RunConfig(), partition="iid").alpha is None
    assert RunConfig().image_size == 32
    assert RunConfig(dataset="tiny-imagenet", data_dir=Path("x")).image_size == 64


@pytest.mark.parametrize("text", ["- a\n", "a: [", "colour: red\n", "clients: ten\n", "!!python/object:os.system {}"])
def test_yaml_of_another_kind_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        from_yaml(text)


def test_only_where_a_run_is_computed_may_differ_on_resume() -> None:
    config = RunConfig()
    assert not differences(config, RunConfig(engine="ray", device="cpu", threads=1, output=Path("elsewhere")))
    began = replace(config, precision="32", workers=2)
    assert not differences(began, config), "what auto was settled to stays"
    assert differences(began, replace(config, precision="bf16")) == ["--precision 32 (now bf16)"]
    assert differences(config, RunConfig(lr=0.1, clients=5)) == ["--clients 10 (now 5)", "--lr 0.05 (now 0.1)"]


def test_default_folder_tells_runs_apart() -> None:
    folder = RunConfig(dataset="folder:/data/pets", init="checkpoints/fps_r20.pt", alpha=0.1, seed=3).folder
    assert folder == Path("runs/pets-dirichlet0.1-fps_r20-s3")
    names = [RunConfig(init=init, seed=3).folder.name for init in ("random", "random:0", "random:3")]
    assert names == [f"digits-dirichlet0.3-{start}-s3" for start in ("random", "random-0", "random-3")]


HEAVY = ("torch", "flwr", "datasets", "sklearn", "pytorch_lightning", "lightly", "numba", "matplotlib")


@pytest.mark.parametrize("program", ["run_fl", "run_pretrain"])
@pytest.mark.parametrize("flags", [["--help"], ["--lr", "-1"], ["--lerning-rate", "1"]])
def test_the_command_line_waits_for_nothing_heavy(program: str, flags: list[str]) -> None:
    script = f"""
import atexit, sys, {program}
atexit.register(lambda: print([m for m in {HEAVY} if m in sys.modules]))
({program}.parse if hasattr({program}, "parse") else {program}.main)({flags})
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == (0 if flags == ["--help"] else 2)
    assert done.stdout.splitlines()[-1] == "[]"

"""The recipes that are shipped: what their first lines say is what they do."""

import re
import shlex
from pathlib import Path

import pytest

from experiments import compare, curve
from experiments.report.arms import passes
from tests.conftest import assert_refused

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "recipes"
RECIPES = sorted(FOLDER.rglob("*.yaml"))
WARM_START = "experiments/recipes/cifar10-warm-start.yaml"


def name(path):
    return str(path.relative_to(FOLDER).with_suffix(""))


def read(recipe):
    """The comparison that a recipe's first line runs."""
    sharp, python, m, module, *arguments = shlex.split(recipe.read_text().splitlines()[0])
    assert (sharp, python, m, module) == ("#", "python", "-m", "experiments.compare")
    assert f"experiments/recipes/{name(recipe)}.yaml" in arguments
    return compare.parse(arguments)


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_the_first_line_of_a_recipe_is_its_command(recipe, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = read(recipe)
    if config.run.dataset == "digits":
        assert config.jobs == 2
    else:
        assert config.run.data_dir == Path("DIR")
        assert config.lrs
    assert all(init == "random" or Path(init).is_file() for init in config.inits)
    assert len(config.seeds) >= 3


@pytest.mark.parametrize("recipe", [r for r in RECIPES if r.stem != "cifar10-warm-start"], ids=name)
def test_the_second_line_says_how_long_it_takes(recipe):
    assert re.match(r"# About (a minute|\d+ (minutes|hours)) on two cores", recipe.read_text().splitlines()[1])


def test_there_is_a_recipe_for_every_data_set_partition_and_size(monkeypatch):
    monkeypatch.chdir(ROOT)
    partitions = ("iid", "dirichlet0.3", "dirichlet0.1", "shards2")
    for dataset, arch in (("cifar10", "resnet20"), ("cifar100", "resnet20"), ("tiny-imagenet", "resnet18")):
        for partition in partitions:
            full, small = (read(FOLDER / dataset / f"{partition}{size}.yaml").run for size in ("", "-small"))
            assert full.dataset == small.dataset == dataset
            assert full.arch == small.arch == arch
            assert full.partition_title == small.partition_title
            assert (full.rounds, full.clients, full.participants) == (100, 100, 10)
            assert small.limit_train is not None
            assert small.limit_train * passes(small) < 1_000_000


def test_an_unknown_field_names_the_nearest(run_script, tmp_path):
    (tmp_path / "r.yaml").write_text("partition: dirichlet\nalhpa: 0.1\nxyzzy: 1\n")
    refused = run_script("experiments.compare", "--config", tmp_path / "r.yaml", cwd=tmp_path)
    assert_refused(refused, "alhpa (did you mean alpha?), xyzzy")


def test_a_curve_takes_the_options_of_a_comparison(monkeypatch):
    monkeypatch.chdir(ROOT)
    compared = compare.parse(["--config", WARM_START])
    config = curve.parse(["a.pt", "LABEL=b.pt", "--config", WARM_START, "--rounds", "3"])
    assert config.encoders == ("a.pt", "LABEL=b.pt")
    assert (config.lrs, config.seeds) == (compared.lrs, compared.seeds)
    assert config.run.rounds == 3
    assert config.run.limit_train == compared.run.limit_train
    assert curve.parse(["--config", WARM_START, "--lrs", "0.1", "--seeds", "7"]).lrs == (0.1,)

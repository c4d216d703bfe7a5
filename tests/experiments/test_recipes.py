"""The recipes that are shipped: what their first lines say is what they do."""

import shlex
from pathlib import Path

import pytest

from experiments import compare, curve

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "experiments" / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_first_line_of_a_recipe_is_its_command(recipe, monkeypatch):
    monkeypatch.chdir(ROOT)
    sharp, python, m, module, *arguments = shlex.split(recipe.read_text().splitlines()[0])
    assert (sharp, python, m, module) == ("#", "python", "-m", "experiments.compare")
    config = compare.parse(arguments)
    assert config.run.data_dir == Path("DIR")
    assert all(init == "random" or Path(init).is_file() for init in config.inits)
    assert config.lrs
    assert len(config.seeds) >= 3


def test_a_curve_takes_the_options_of_a_comparison(monkeypatch):
    monkeypatch.chdir(ROOT)
    recipe = str(RECIPES[0].relative_to(ROOT))
    compared = compare.parse(["--config", recipe])
    config = curve.parse(["a.pt", "LABEL=b.pt", "--config", recipe, "--rounds", "3"])
    assert config.encoders == ("a.pt", "LABEL=b.pt")
    assert (config.lrs, config.seeds) == (compared.lrs, compared.seeds)
    assert config.run.rounds == 3
    assert config.run.limit_train == compared.run.limit_train
    assert curve.parse(["--config", recipe, "--lrs", "0.1", "--seeds", "7"]).lrs == (0.1,)

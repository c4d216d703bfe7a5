"""What a model card says of an encoder."""

from __future__ import annotations

from typing import Any

import pytest

from fps_pretrain.models.card import federation_command, model_card


def card(arch: str = "resnet20", width: int = 1, name: str = "hf:lab/fps", **said: Any) -> str:
    return model_card({"arch": arch, "width": width, "provenance": said}, name, None)


def test_only_an_encoder_of_fractals_is_said_to_have_seen_no_photograph() -> None:
    assert "without any photograph" in card(recipe={"source": "fractals", "size": 32})
    for recipe in ({"source": "folder:photos"}, {}, "fractals", None):
        text = card(recipe=recipe)
        assert "An image encoder that was pre-trained by self-supervision.\n" in text
        assert "photograph" not in text


def test_the_accuracy_of_random_weights_stands_beside_that_of_the_encoder() -> None:
    text = card(probe={"digits_knn": 0.9, "digits_knn_random": 0.8, "digits_linear": 0.95, "bank": 1200, "queries": 7})
    rows = [line for line in text.splitlines() if line.startswith("| `digits")]
    assert rows == ["| `digits knn` | `90.0% (random weights: 80.0%)` |", "| `digits linear` | `95.0%` |"]
    assert "(1,200 labelled images, 7 others that are classified)" in text
    assert "Accuracy" not in card(probe={"bank": 1200})


def test_a_long_value_is_cut() -> None:
    text = card(versions={"torch": "x" * 200, "other": "y" * 201})
    assert f"`{'x' * 200}`" in text
    assert f"`{'y' * 200}...`" in text


def test_it_is_called_what_the_repository_is_called() -> None:
    assert "\n# fps\n" in card(name="hf:lab/fps@v2")


@pytest.mark.parametrize(
    ("arch", "width", "said", "flags"),
    [
        ("resnet20", 1, {}, "--arch resnet20"),
        ("resnet20", 2, {}, "--arch resnet20 --width 2"),
        ("resnet18", 1, {"recipe": {"size": 224}}, "--arch resnet18 --image-size 224"),
        ("resnet18", 1, {"recipe": {"size": "large"}}, "--arch resnet18 --image-size 32"),
    ],
)
def test_a_federation_that_begins_with_it(arch: str, width: int, said: dict[str, Any], flags: str) -> None:
    content = {"arch": arch, "width": width, "provenance": said}
    assert federation_command(content, "my runs/a.pt") == f"python run_fl.py --init 'my runs/a.pt' {flags}"

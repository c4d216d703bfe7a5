"""Presets, names of files, and what a configuration refuses."""

from pathlib import Path

import pytest

from fps_pretrain.common.errors import UserError
from fps_pretrain.config.method import options_class
from fps_pretrain.config.pairs import PreviewConfig
from fps_pretrain.config.pretrain import PretrainConfig, read_yaml, write_yaml
from fps_pretrain.fractals.code_file import write_codes
from tests.fps_pretrain.pairs.test_gallery import codes_of_seed


@pytest.mark.parametrize(
    ("options", "output", "run_dir"),
    [
        ({}, "fps_r20_paper.pt", "pretrain-simsiam-resnet20-paper"),
        ({"preset": "quick"}, "fps_r20_quick.pt", "pretrain-simsiam-resnet20-quick"),
        ({"method": "moco"}, "fps_r20_moco_paper.pt", "pretrain-moco-resnet20-paper"),
        ({"preset": "short"}, "fps_r20_simclr_short.pt", "pretrain-simclr-resnet20-short"),
        ({"preset": "short", "method": "moco"}, "fps_r20_moco_short.pt", "pretrain-moco-resnet20-short"),
        ({"arch": "resnet56", "width": 2}, "fps_r56x2_paper.pt", "pretrain-simsiam-resnet56x2-paper"),
        ({"arch": "resnet18"}, "fps_r18_paper.pt", "pretrain-simsiam-resnet18-paper"),
        ({"arch": "resnet18", "size": 64, "preset": "quick", "method": "moco"}, "fps_r18_64px_moco_quick.pt",
         "pretrain-moco-resnet18-64px-quick"),
        ({"source": "dead-leaves", "method": "simclr", "preset": "short"}, "dead-leaves_r20_simclr_short.pt",
         "pretrain-simclr-resnet20-dead-leaves-short"),
        ({"arch": "mobilenet_v3_small"}, "fps_mobilenet_v3_small_paper.pt",
         "pretrain-simsiam-mobilenet_v3_small-paper"),
    ],
)  # fmt: skip
def test_default_names_tell_encoders_apart(options, output, run_dir):
    config = PretrainConfig(**({"preset": "paper"} | options)).resolve(has_gpu=False)
    assert config.output == Path("checkpoints") / output
    assert config.run_dir == Path("runs") / run_dir


def test_the_papers_recipe_for_each_encoder():
    small = PretrainConfig(preset="paper").resolve(has_gpu=False)
    large = PretrainConfig(preset="paper", arch="resnet18", method="moco").resolve(has_gpu=False)
    for config in (small, large):
        assert (config.epochs, config.pairs_per_epoch, config.batch_size) == (100, 1_000_000, 256)
    assert (small.size, large.size) == (32, 224)
    assert (large.recipe().render_side, large.recipe().points) == (112, 100_000)
    assert PretrainConfig(arch="resnet18").resolve(has_gpu=False).pairs_per_epoch < 1000  # minutes on a CPU, too


def test_the_short_recipe_gives_way_to_what_is_said():
    short = PretrainConfig(preset="short").resolve(has_gpu=True)
    assert (short.method, short.schedule, short.warmup_pairs) == ("simclr", "step", 25_600)
    assert short.epochs * short.pairs_per_epoch == 5_120_000
    other = PretrainConfig(preset="short", method="byol", schedule="epoch", epochs=3).resolve(has_gpu=True)
    assert (other.method, other.schedule, other.warmup_pairs, other.epochs) == ("byol", "epoch", 0, 3)
    paper = PretrainConfig(preset="paper").resolve(has_gpu=False)
    assert (paper.method, paper.schedule, paper.warmup_pairs) == ("simsiam", "epoch", 0)
    with pytest.raises(UserError, match="--schedule step"):
        PretrainConfig(preset="short", schedule="epoch", warmup_pairs=10)


@pytest.mark.parametrize(
    ("epochs", "pairs", "warmup"),
    [(1, 10_240, 512), (20, 300, 256), (1, 102_399, 5_107), (1, 102_400, 25_600), (2, 256_000, 25_600)],
)
def test_a_warm_up_ends_well_before_its_run(epochs, pairs, warmup, tmp_path):
    config = PretrainConfig(preset="short", epochs=epochs, pairs_per_epoch=pairs).resolve(has_gpu=False)
    assert config.warmup_pairs == warmup
    folder = PretrainConfig(preset="short", source=f"folder:{tmp_path}", epochs=epochs)
    assert folder.resolve(has_gpu=False, images=pairs).warmup_pairs == warmup


def test_a_warm_up_as_long_as_its_run_is_refused():
    budget = {"schedule": "step", "epochs": 2, "pairs_per_epoch": 24, "batch_size": 8}
    assert PretrainConfig(**budget, warmup_pairs=47).resolve(has_gpu=False).warmup_pairs == 47
    with pytest.raises(UserError, match="--warmup-pairs 48 must be less than the run's pairs, 48"):
        PretrainConfig(**budget, warmup_pairs=48)
    with pytest.raises(UserError, match="--warmup-pairs 102400 must"):  # the budget is the preset's
        PretrainConfig(preset="quick", schedule="step", warmup_pairs=102_400).resolve(has_gpu=False)


def test_simsiam_and_moco_take_other_numbers_in_short_runs():
    for preset in ("short", "quick"):
        simsiam = PretrainConfig(preset=preset, method="simsiam").resolve(has_gpu=True)
        assert (simsiam.options().centre, simsiam.composed_views, simsiam.renders) == (1, 2, "fresh")
        moco = PretrainConfig(preset=preset, method="moco", batch_size=64).resolve(has_gpu=True)
        assert (moco.options().queue, moco.options().group, moco.composed_views, moco.lr) == (4096, 0, 1, 0.03)
    for method in ("simsiam", "moco", "simclr"):
        paper = PretrainConfig(preset="paper", method=method).resolve(has_gpu=False)
        assert (paper.composed_views, paper.renders) == (2, "shared")
        assert paper.options() == options_class(method)()
        assert PretrainConfig(preset="paper", pool=1024).resolve(has_gpu=False).renders == "fresh"


def test_what_is_said_wins_over_what_short_runs_take(tmp_path):
    said = {"method_options": ("centre=0",), "composed_views": 1, "renders": "shared", "lr": 0.5}
    config = PretrainConfig(preset="short", method="simsiam", **said).resolve(has_gpu=False)
    assert {name: getattr(config, name) for name in said} == said
    moco = PretrainConfig(preset="quick", method="moco", method_options=("queue=512",), composed_views=2)
    moco = moco.resolve(has_gpu=False)
    assert (moco.options().queue, moco.options().momentum, moco.composed_views) == (512, 0.99, 2)
    folder = PretrainConfig(preset="quick", source=f"folder:{tmp_path}").resolve(has_gpu=False, images=64)
    assert (folder.method_options, folder.composed_views) == (("centre=0",), None)
    assert (folder.objects, folder.classes) == (None, None)  # they are of fractals


@pytest.mark.parametrize(
    ("options", "lr", "numbers"),
    [
        ({"method": "simsiam"}, 0.05, ("centre=0",)),
        ({"method": "simclr", "batch_size": 64}, 0.03, ("temperature=0.5", "hidden=0")),
        ({"method": "moco", "optimizer": "adamw"}, 1e-3, None),
        ({"method": "byol", "optimizer": "lars", "batch_size": 512}, 0.6, None),
        ({"method": "simclr", "method_options": ("temperature=0.123456789",), "lr": 0.7}, 0.7,
         ("temperature=0.123456789", "hidden=0")),
    ],
)  # fmt: skip
def test_a_resolved_configuration_has_the_learning_rate_and_all_numbers(options, lr, numbers, tmp_path):
    config = PretrainConfig(preset="paper", **options).resolve(has_gpu=False)
    assert config.lr == lr
    if numbers:
        assert config.method_options == numbers
    assert config.options() == PretrainConfig(**options).options()
    assert config.resolve(has_gpu=False) == config
    (tmp_path / "folder").mkdir()
    write_yaml(tmp_path / "folder" / "config.yaml", config)
    assert read_yaml(tmp_path / "folder" / "config.yaml")["lr"] == lr


def test_a_resolved_configuration_has_what_the_pairs_are_made_of(tmp_path):
    small, large = (
        PretrainConfig(preset="paper", arch=arch).resolve(has_gpu=False) for arch in ("resnet20", "resnet18")
    )
    assert (small.objects, large.objects, small.classes) == ((2, 2), (2, 5), 100_000)
    write_codes(tmp_path / "codes.npz", *codes_of_seed(0, 5))
    assert PretrainConfig(codes=tmp_path / "codes.npz").resolve(has_gpu=False).classes == 5
    for config in (PretrainConfig(), PretrainConfig(arch="resnet18")):
        assert config.resolve(has_gpu=False).recipe() == config.recipe()


def test_what_earlier_revisions_left_open_is_what_they_trained_with():
    config = PretrainConfig(preset="quick", method="moco", method_options=("queue=512",)).resolve(has_gpu=False)
    short = ["queue=512", "head_batchnorm=1", "group=0", "temperature=0.5", "momentum=0.99"]
    earlier = config.to_dict() | {"lr": None, "objects": None, "classes": None, "method_options": short}
    assert config.differences(earlier | {"lr": 0.12}) == []
    byol = PretrainConfig(method="byol").resolve(has_gpu=False)
    assert byol.differences(byol.to_dict() | {"lr": None, "method_options": []}) == []
    plain = PretrainConfig(preset="quick", method="byol", objects=(1, 3), classes=50, lr=0.3).resolve(has_gpu=False)
    left_open = plain.to_dict() | {"lr": None, "objects": None, "classes": None, "method_options": ["momentum=0.9"]}
    assert set(plain.differences(left_open)) == {
        "--method-options ['momentum=0.9', 'hidden=512'] (now ['momentum=0.996', 'hidden=512'])",
        "--lr 0.06 (now 0.3)",
        "--classes 100000 (now 50)",
        "--objects [2, 2] (now [1, 3])",
    }
    for damaged in ("x", ["x"], [["momentum=0.9"]], [None], None):
        assert len(plain.differences(plain.to_dict() | {"method_options": damaged})) == 1


def test_an_epoch_of_a_folder_is_its_images(tmp_path):
    source = f"folder:{tmp_path}"
    config = PretrainConfig(source=source, preset="paper").resolve(has_gpu=True, images=5_000)
    assert config.pairs_per_epoch == 5_000
    assert config.output == Path("checkpoints") / f"{tmp_path.name}_r20_paper.pt"
    with pytest.raises(UserError, match="--pairs-per-epoch"):
        PretrainConfig(source=source, preset="paper").resolve(has_gpu=True, images=100)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source": "fractal"}, "--source"),
        ({"source": "folder:"}, "--source"),
        ({"source": "folder:nowhere"}, "no folder nowhere"),
        ({"source": "folder:.", "colour": "jitter", "classes": 5}, "--classes, --colour"),
        ({"arch": "resnet18", "width": 2}, "--width"),
        ({"arch": "resnet19"}, "--arch"),
        ({"devices": 0}, "--devices"),
        ({"devices": 2, "batch_size": 3}, "--batch-size"),
        ({"devices": 2, "nodes": 2, "batch_size": 4}, "--batch-size"),
        ({"state_every": float("nan")}, "--state-every"),
        ({"probe_every": -1}, "--probe-every"),
        ({"probe_every": 10**400}, "--probe-every"),
        ({"epochs": 10**30}, "--epochs"),
        ({"pairs_per_epoch": 10**22}, "--pairs-per-epoch must be in 1 .. 1000000000000,"),
        ({"batch_size": 10**10}, "--batch-size"),
    ],
)
def test_what_does_not_go_together_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        PretrainConfig(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"codes": "codes.npz", "recipe_numbers": ("codes.max_maps=4",)}, "codes.max_maps .* with --codes"),
        ({"jitter": "none", "recipe_numbers": ("image.jitter_low=0.8",)}, "image.jitter_low .* --jitter none"),
        ({"jitter": "fractaldb", "recipe_numbers": ("image.jitter_high=2",)}, "image.jitter_high .* fractaldb"),
    ],
)
def test_options_of_pairs_that_would_do_nothing_are_refused(options, words, tmp_path):
    if "codes" in options:
        options = options | {"codes": tmp_path / options["codes"]}
        write_codes(options["codes"], *codes_of_seed(0, 5))
    for config in (PretrainConfig, PreviewConfig):
        for name in options:  # each by itself does something
            config(**{name: options[name]})
        with pytest.raises(UserError, match=words):
            config(**options)


def test_a_state_of_another_run_is_named_by_its_fields():
    config = PretrainConfig()
    saved = config.to_dict() | {"lr": 0.3, "arch": "resnet32", "threads": 7, "devices": 4, "probe_data": "x"}
    assert config.differences(saved) == ["--arch resnet32 (now resnet20)", f"--lr 0.3 (now {config.lr})"]

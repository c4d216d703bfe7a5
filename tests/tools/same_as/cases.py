"""What is compared: each case is a run with tiny sizes, the same on both sides but for the flags that say otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.tools.same_as.compare import Outcome, but_for_last_bits, examples_only, parameters_only, without_probe

_BUFFERS = "BatchNorm's buffers are combined robustly, too; compared are the parameters after round 1"

_NESTED = "a probe reads nested folders in the order that federations do, so that other images are held out"
_NESTED_PROBES = (
    *("barlowtwins", "byol", "moco", "simclr", "vicreg"),
    *("adamw-steps", "width-seed", "codes-pool", "folder", "render-device", "resumed"),
)

_FAILURES = "replies are added up as they arrive, and scaled at the end where one fails: last bits differ"
_WITH_FAILURES = (
    *("dp-adaptive-failures", "failures", "failures-scaffold", "resumed-scaffold-failures"),
    "workers-scaffold-failures",
)

_STATISTICS = "BatchNorm's statistics come from shuffled images"
_ESTIMATED = ("dp-fixed", "dp-adaptive", "dp-fixed-fedadam", "server-statistics")

_DISTANCES = "replies are compared and averaged in float64: last bits differ"
_BY_DISTANCE = ("multikrum", "bulyan")

MENDED = {
    **{name: _DISTANCES for name in _BY_DISTANCE},
    **{name: _STATISTICS for name in _ESTIMATED},
    **{name: _FAILURES for name in _WITH_FAILURES},
    **{f"pretrain-{name}": _NESTED for name in _NESTED_PROBES},
    "partition-dirichlet": "one seed served a permutation and the Dirichlet draw; now each has its own",
    "median-batchnorm": _BUFFERS,
    "trimmedmean-batchnorm": _BUFFERS,
}
"""Cases whose results differ from those of revisions before a mended defect, and why."""

COMPARABLE: dict[str, Callable[[Outcome], Outcome]] = {
    **{name: parameters_only for name in _ESTIMATED},
    **{name: but_for_last_bits for name in (*_WITH_FAILURES, *_BY_DISTANCE)},
    **{f"pretrain-{name}": without_probe for name in _NESTED_PROBES},
    "partition-dirichlet": examples_only,
    "median-batchnorm": parameters_only,
    "trimmedmean-batchnorm": parameters_only,
}
"""What of those cases must still be identical."""


@dataclass(frozen=True)
class Case:
    """A run of both sides.

    Attributes:
        name: what it is called.
        program: ``pairs``, or the command without its options.
        flags: options of both sides. ``{images}`` and ``{codes}`` stand for the folder and the file of the tool's.
        new: options of the new side, each with its value; one that it does not know is left out. The old side has them,
            too, if it knows them all.
        old: options of the old side only.
        pairs: options of ``FPSPairs`` by a name for them; three batches are made with each.
        kills: numbers of lines of the metrics at which the new side's run is killed and started again.
    """

    name: str
    program: str
    flags: tuple[str, ...] = ()
    new: tuple[tuple[str, str], ...] = ()
    old: tuple[tuple[str, str], ...] = ()
    pairs: dict[str, dict[str, Any]] = field(default_factory=dict)
    kills: tuple[int, ...] = ()


PAIRS: dict[str, dict[str, Any]] = {
    "default": {},
    "seed": {"seed": 7},
    "few-classes": {"num_classes": 5, "pairs_per_epoch": 8},
    "first": {"first": 1000, "pairs": 8},
    "threads": {"threads": 2},
    "objects": {"objects": (1, 4)},
    "colour-jitter": {"colour": "jitter"},
    **{f"jitter-{kind}": {"jitter": kind} for kind in ("none", "fractaldb", "svd", "sval")},
    "diamond-square": {"background": "diamond-square"},
    "one-composed-view": {"composed_views": 1},
    "pool": {"pool": 8, "num_classes": 6},
    "numbers": {"numbers": {"compose.scale_low": 0.3, "augment.grey_probability": 0.5, "codes.max_maps": 3}},
    "all": {
        **{"colour": "jitter", "jitter": "svd", "background": "diamond-square", "composed_views": 1, "pool": 16},
        "objects": (1, 3),
    },
}


def _pairs() -> Iterable[Case]:
    def case(size: int, batch: int, *names: str) -> Case:
        sizes = {"batch_size": batch, "size": size}
        return Case(f"pairs-{size}", "pairs", pairs={name: {**sizes, **PAIRS[name]} for name in names})

    yield case(32, 4, *PAIRS)
    yield case(224, 2, "default", "jitter-none", "jitter-sval", "diamond-square", "pool", "all")
    yield case(16, 4, "default", "all")
    yield case(96, 2, "default", "all")
    preview = "run_pretrain.py preview"
    yield Case("preview-32", preview, ("--pairs", "4"))
    yield Case("preview-96-as-composed", preview, ("--pairs", "3", "--size", "96", "--no-augment"))
    yield Case("preview-codes", preview, ("--pairs", "3", "--codes", "{codes}", "--background", "diamond-square"))


METHODS = ("barlowtwins", "byol", "moco", "simclr", "simsiam", "vicreg")

EIGHT_STEPS = (
    *("--size", "16", "--epochs", "1", "--pairs-per-epoch", "64", "--batch-size", "8", "--device", "cpu"),
    *("--precision", "32", "--threads", "1", "--log-every", "1"),
)


def _pretraining() -> Iterable[Case]:
    def case(name: str, *flags: str, kills: tuple[int, ...] = ()) -> Case:
        probe = () if name == "simsiam" else ("--probe-data", "{images}/train")  # the probe of digits takes a second
        # Short runs of simsiam and moco have numbers of their own by now; the paper's preset has the old ones.
        papers = (("--preset", "paper"), ("--renders", "fresh")) if "folder" not in name else ()
        return Case(f"pretrain-{name}", "run_pretrain.py", (*EIGHT_STEPS, *probe, *flags), new=papers, kills=kills)

    for number, method in enumerate(METHODS):
        options = ("--method-options", "queue=64") if method == "moco" else ()
        yield case(method, "--method", method, *options, "--workers", str(number % 2))
    step = ("--schedule", "step", "--warmup-pairs", "16")
    yield case("adamw-steps", "--method", "simclr", "--optimizer", "adamw", *step, "--workers", "0")
    yield case("width-seed", "--method", "simsiam", "--width", "2", "--seed", "3", "--workers", "1")
    yield case("codes-pool", "--method", "simclr", "--codes", "{codes}", "--pool", "16", "--workers", "1")
    yield case("folder", "--method", "simclr", "--source", "folder:{images}", "--workers", "0")
    yield case("render-device", "--method", "simclr", "--render", "device", "--workers", "0")
    queue = ("--method", "moco", "--method-options", "queue=64")
    yield case("resumed", *queue, "--workers", "1", "--state-every", "0", kills=(5, 8))


def _federation(
    name: str, *flags: str, clients: int = 4, participation: float = 0.75, rounds: int = 2, **more: Any
) -> Case:
    common = (
        *("--dataset", "digits", "--limit-train", "100", "--limit-test", "40", "--image-size", "8"),
        *("--validation", "0.1", "--clients", str(clients), "--participation", str(participation)),
        *("--rounds", str(rounds), "--local-epochs", "1", "--batch-size", "8", "--device", "cpu", "--threads", "1"),
        *("--quiet",),
    )
    for option, value in (("--partition", "iid"), ("--precision", "32")):
        if option not in flags:
            common = (*common, option, value)
    return Case(name, "run_fl.py", (*common, *flags), **more)


PARTITIONS = {
    "iid": (),
    "dirichlet": ("--alpha", "0.5"),
    "inner-dirichlet": ("--alpha", "0.5"),
    "shards": ("--shards-per-client", "3"),
    "pathological": ("--classes-per-client", "3"),
    "size": ("--size-skew", "exponential"),
}


def _partitions() -> Iterable[Case]:
    for kind, details in PARTITIONS.items():
        yield _federation(f"partition-{kind}", "--partition", kind, *details, "--seed", "1", rounds=1)
    natural = ("--dataset", "folder:{images}", "--limit-train", "30", "--limit-test", "6", "--validation", "0")
    yield _federation("partition-natural", "--partition", "natural", *natural, rounds=1)


ROBUST: dict[str, tuple[int, float, tuple[str, ...]]] = {
    "bulyan": (8, 0.875, ("--malicious", "1")),
    "krum": (6, 0.84, ("--malicious", "1")),
    "median": (6, 0.5, ()),
    "multikrum": (6, 0.84, ("--malicious", "1", "--selected", "3")),
    "trimmedmean": (6, 0.84, ("--trim", "0.2")),
}
"""Strategies that combine BatchNorm's buffers in another way than before; compared without BatchNorm. Clients, their
share in a round, and options."""

STRATEGIES: dict[str, tuple[str, ...]] = {
    "fedadagrad": (),
    "fedadam": (),
    "fedavg": (),
    "fedavgm": ("--server-lr", "0.8"),
    "feddyn": (),
    "fednova": ("--partition", "shards"),
    "fedprox": ("--prox-mu", "0.1"),
    "fedyogi": ("--tau", "0.01"),
    "moon": ("--moon-mu", "2"),
    "qfedavg": ("--partition", "shards"),
    "scaffold": (),
}

DP = {
    "fixed": ("--dp", "fixed", "--dp-noise", "0.3", "--bn-stats", "server"),
    "adaptive": ("--dp", "adaptive", "--dp-noise", "0.5", "--bn-stats", "server"),
}

SECRET = (("--dp-secret", "0"),)
"""Noise and participants come from a secret of the server's; this one gives the draws that seed 0 gave before."""


def _federations() -> Iterable[Case]:
    for strategy in sorted({*ROBUST, *STRATEGIES}):
        if strategy in ROBUST:
            clients, participation, flags = ROBUST[strategy]
            sizes: dict[str, Any] = {"clients": clients, "participation": participation}
            yield _federation(strategy, "--strategy", strategy, "--norm", "group", *flags, **sizes)
            if strategy in ("median", "trimmedmean"):
                yield _federation(f"{strategy}-batchnorm", "--strategy", strategy, *flags, rounds=1, **sizes)
        else:
            yield _federation(strategy, "--strategy", strategy, *STRATEGIES[strategy])

    for kind, flags in DP.items():
        yield _federation(f"dp-{kind}", *flags, new=SECRET)
    yield _federation("dp-fixed-fedadam", "--strategy", "fedadam", *DP["fixed"], new=SECRET)
    yield _federation("dp-adaptive-failures", *DP["adaptive"], "--inject-failures", "0.3", new=SECRET)
    group = ("--dp", "fixed", "--dp-clip", "0.5", "--norm", "group")
    yield _federation("dp-fixed-moon-group", "--strategy", "moon", *group, new=SECRET)

    fails = ("--inject-failures", "0.4")
    yield _federation("failures", *fails, "--seed", "2", clients=6, rounds=3)
    yield _federation("failures-scaffold", *fails, "--strategy", "scaffold", "--seed", "2", clients=6, rounds=3)
    yield _federation("workers-scaffold-failures", "--workers", "2", "--strategy", "scaffold", *fails, "--seed", "2")
    yield _federation("workers-local-statistics", "--workers", "2", "--bn-stats", "local", "--per-client-every", "1")
    yield _federation("ray", "--engine", "ray", "--workers", "2", "--strategy", "scaffold")
    yield _federation("group-norm", "--norm", "group")
    yield _federation("local-statistics", "--bn-stats", "local", "--per-client-every", "1")
    yield _federation("server-statistics", "--bn-stats", "server")
    yield _federation("clients-statistics", "--init-statistics", "clients")
    yield _federation("centroid-head", "--head", "centroid")
    yield _federation("shipped-weights", "--init", "checkpoints/fps_r20.pt")
    everything = ("--head", "centroid", "--init-statistics", "clients", "--per-client-every", "1")
    yield _federation("shipped-weights-prepared", "--init", "checkpoints/fps_r20.pt", *everything)
    yield _federation("shuffled-weights", "--init", "shuffled:checkpoints/fps_r20.pt")
    yield _federation("per-client", "--per-client-every", "1", "--partition", "shards")
    training = ("--lr-schedule", "cosine", "--augment", "standard", "--image-size", "16", "--local-epochs", "2")
    yield _federation("training-options", *training, "--weight-decay", "0.01", "--momentum", "0.5", "--seed", "5")
    yield _federation("evaluation-options", "--eval-every", "2", "--validation", "0", "--augment", "none", rounds=3)
    yield _federation("bfloat16", "--precision", "bf16")
    yield _federation("resnet32-wide", "--arch", "resnet32", "--width", "2", rounds=1)
    yield _federation("folder", "--dataset", "folder:{images}", "--limit-train", "30", "--limit-test", "6")

    def resumed(name: str, *flags: str, kills: tuple[int, ...] = (3,), **more: Any) -> Case:
        return _federation(f"resumed-{name}", *flags, rounds=3, kills=kills, **more)

    yield resumed("fedavg")
    yield resumed("fedadam", "--strategy", "fedadam", kills=(2, 4))
    yield resumed("scaffold-failures", "--strategy", "scaffold", *fails, "--seed", "2", kills=(3, 4))
    yield resumed("feddyn", "--strategy", "feddyn")
    yield resumed("moon", "--strategy", "moon")
    yield resumed("dp-adaptive", *DP["adaptive"], new=SECRET)
    yield resumed("local-statistics", "--bn-stats", "local", "--per-client-every", "1")
    yield resumed("prepared", "--init-statistics", "clients", "--head", "centroid")


CASES = [*_pairs(), *_pretraining(), *_partitions(), *_federations()]

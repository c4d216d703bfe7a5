"""How much pre-training does it take? ``python -m experiments.curve runs/*/encoder-*.pt --dataset cifar10``.

Accuracy against the pairs an encoder has seen: nearest neighbours and a linear classifier on frozen features, and a
short federation, beside random weights. Everything is measured on the validation split; the test set is not used.
Values that were measured before are read from the table, so encoders can be added and an interrupted call goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.comparison import config as comparison
from experiments.learning_curve.config import CurveConfig
from experiments.learning_curve.measure import Candidate, Work, candidates, classify_frozen, federate, missing
from experiments.learning_curve.picture import draw
from experiments.learning_curve.values import TITLES, Value, at_best_rates, read_table, summary, write_table
from federated.config import file as config_file
from federated.config.run import MAY_DIFFER_ON_RESUME, RunConfig, to_yaml
from federated.server.output.file_names import DATA_DIGEST
from fps_pretrain.common import cli, yaml_file
from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import locked, read_text, write_bytes_atomically

PROG = "experiments.curve"
TABLE, PICTURE, SETTINGS = "curve.csv", "curve.png", "settings.yaml"


def main(config: CurveConfig) -> int:
    """Measure what is missing, then write table and picture; returns the exit code."""
    import torch

    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    encoders = candidates(config.encoders, config.run.arch, config.run.width)
    config.folder.mkdir(parents=True, exist_ok=True)
    with locked(config.folder):  # two at once would lose each other's rows
        return _fill_in(config, encoders)


def _fill_in(config: CurveConfig, encoders: list[Candidate]) -> int:
    from federated.data import sets as data

    folder = config.folder
    labels = {encoder.sha256: encoder.label for encoder in encoders}
    values = [replace(value, label=labels.get(value.sha256, value.label)) for value in read_table(folder / TABLE)]
    settings = _settings(config.run)
    before = _settings_in(folder) if values else settings
    digest_before = before.pop(DATA_DIGEST, None)  # those of earlier versions have none
    if before != settings:
        raise UserError(f"{folder} was measured with other options (its {SETTINGS}): choose another --output")
    table = data.load(config.run)
    digest = table.digest()
    if digest_before not in (None, digest):
        raise UserError(
            f"{folder} was measured on other data than {config.run.dataset} holds now: choose another --output"
        )
    yaml_file.write(folder / SETTINGS, {**settings, DATA_DIGEST: digest})

    values = _measured(config, missing(config, encoders, values), values, table)
    write_bytes_atomically(folder / PICTURE, draw(at_best_rates(values)))
    print("\n".join(summary(at_best_rates(values))))
    print(f"wrote {folder / TABLE} and {folder / PICTURE}", file=sys.stderr)
    return 0


def _measured(config: CurveConfig, works: Sequence[Work], values: list[Value], table: Any) -> list[Value]:
    """The values with those of ``works``, each written once it is known.

    Of several rates, one at which an encoder's training diverges with any seed does not count for this encoder.

    Raises:
        Diverged: an encoder has no rate left.
    """
    from federated.server.run import Diverged

    diverged: dict[str, set[float]] = {}
    for number, work in enumerate(works, 1):
        candidate, left_out = work.candidate, diverged.setdefault(work.candidate.sha256, set())
        if work.lr in left_out:
            continue
        try:
            values = [*values, *_measure(config, work, table, f"[{number}/{len(works)}]")]
        except Diverged as error:
            if len(config.rates) == 1:
                raise
            left_out.add(work.lr)
            if left_out.issuperset(config.rates):
                raise Diverged(f"{candidate.label} can be trained with none of --lrs: name lower ones") from error
            at = f"{candidate.label}, {candidate.pairs:,} pairs, seed {work.seed}, lr {work.lr:g}"
            print(f"[{number}/{len(works)}] {at}: not counted, since it diverges: {error}", file=sys.stderr)
            values = [value for value in values if value.sha256 != candidate.sha256 or value.lr != work.lr]
        write_table(config.folder / TABLE, values)
    return values


def _settings(run: RunConfig) -> dict[str, Any]:
    """The options that values depend on, but for the learning rate and what a work sets itself."""
    return _that_count(to_yaml(replace(run, lr=RunConfig.lr)), "the options")


def _settings_in(folder: Path) -> dict[str, Any]:
    """The options that a folder was measured with, and the digest of its data; nothing if it does not say."""
    try:
        return _that_count(read_text(folder / SETTINGS), SETTINGS)
    except UserError:
        return {}


def _that_count(text: str, name: str) -> dict[str, Any]:
    values = yaml_file.parse(text, name)
    return {option: value for option, value in values.items() if option not in MAY_DIFFER_ON_RESUME}


def _measure(config: CurveConfig, work: Work, table: Any, number: str) -> list[Value]:
    """Do one piece of work, and say on stderr, behind ``number``, what came out."""
    candidate = work.candidate
    run = replace(config.run, init=candidate.init, seed=max(work.seed, 0))
    if work.lr:
        name = f"{candidate.label}-{candidate.sha256[:8]}-lr{work.lr:g}-s{work.seed}"
        output = config.folder / "runs" / name.replace("/", "-").replace(" ", "-")
        accuracies = federate(replace(run, lr=work.lr, output=output))
    else:
        accuracies = classify_frozen(run, work.measures, table)
    about = (candidate.label, candidate.pairs, Path(candidate.init).name, candidate.sha256)
    at = "".join((f", seed {work.seed}" if work.seed >= 0 else "", f", lr {work.lr:g}" if work.lr else ""))
    for measure, accuracy in accuracies.items():
        line = f"{number} {candidate.label}, {candidate.pairs:,} pairs{at}: {TITLES[measure]} {accuracy:.1%}"
        print(line, file=sys.stderr)
    return [Value(*about, measure, work.seed, work.lr, accuracy) for measure, accuracy in accuracies.items()]


def parse(arguments: list[str]) -> CurveConfig:
    """The curve in these arguments; exits with one line and code 2 if they are wrong."""
    lists = ("measures", *comparison.OPTIONS)
    left_out = set(comparison.OPTIONS) - {"seeds", "lrs"}
    return config_file.parse(CurveConfig, PROG, arguments, lists=lists, left_out=left_out)


if __name__ == "__main__":
    sys.exit(cli.run(PROG, main, parse(sys.argv[1:])))

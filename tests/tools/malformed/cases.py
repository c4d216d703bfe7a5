"""The malformed inputs, by what they are given to."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from federated.config.run import RunConfig, to_yaml
from fps_pretrain.common.options import OptionSet, fields_of
from fps_pretrain.common.options.types import bounds, members
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.models.checksum import digest
from fps_pretrain.models.encoders import build_encoder
from tests.tools.malformed.attempt import Case
from tests.tools.malformed.data import data_cases

FEDERATION = ("--dataset", "digits", "--threads", "1", "--quiet")


def every_case() -> list[Case]:
    """All of them, in a fixed order."""
    return [*_options(), *_outputs(), *_checkpoints(), *_yaml_files(), *_histories(), *_tables(), *data_cases()]


def is_alone(number: int, case: Case) -> bool:
    """Whether a case is tried in a process of its own: every tenth, but those with what no process can be given."""
    return number % 10 == 0 and not any("\0" in part or "\ud800" in part for part in case.arguments)


def _options() -> Iterator[Case]:
    """Every numeric option with values that are no number, or none in its range."""
    programs: tuple[tuple[str, type[OptionSet]], ...] = (("run_fl", RunConfig), ("run_pretrain", PretrainConfig))
    for program, options in programs:
        for one in fields_of(options):
            kinds = members(one.type)
            if not {int, float} & set(kinds) or str in kinds:
                continue
            wrong = ["x", "nan", "inf", "", "1e999", "9" * 5000, "1_0 0", "--"]
            range_ = bounds(one.type)
            wrong += ["-1"] * bool({"ge", "gt"} & set(range_))
            wrong += [str(10**20)] * bool({"le", "lt"} & set(range_))
            for value in wrong:
                yield Case(f"{one.flag}={value[:9]}", program, (f"{one.flag}={value}",))


OUTPUTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "empty": ("", lambda here: None),
    "dot": (".", lambda here: None),
    "dots": ("..", lambda here: None),
    "root": ("/", lambda here: None),
    "null device": ("/dev/null", lambda here: None),
    "long name": ("{here}/" + "a" * 300, lambda here: None),
    "long path": ("{here}" + "/abcdefgh" * 1000, lambda here: None),
    "surrogate": ("{here}/\ud800", lambda here: None),
    "NUL": ("{here}/a\0b", lambda here: None),
    "FIFO": ("{here}/out", lambda here: os.mkfifo(here / "out")),
    "link to itself": ("{here}/out", lambda here: (here / "out").symlink_to(here / "out")),
    "link to nothing": ("{here}/out", lambda here: (here / "out").symlink_to(here / "nothing")),
    "below a file": ("{here}/file/out", lambda here: (here / "file").write_text("mine")),
    "link to a device": ("{here}/out", lambda here: (here / "out").symlink_to("/dev/null")),
    "socket": ("{here}/out", lambda here: _socket(here / "out")),
}


def _socket(path: Path) -> None:
    """A socket of that name; the name of one is short, so it is made in its folder."""
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


def _outputs() -> Iterator[Case]:
    pretraining = ("--preset", "quick", "--threads", "1", "--pairs-per-epoch", "10", "--batch-size", "2")
    for name, (path, prepare) in OUTPUTS.items():
        yield Case(f"run_fl --output, {name}", "run_fl", (*FEDERATION, f"--output={path}"), prepare)
        yield Case(f"dry run, {name}", "run_fl", (*FEDERATION, "--dry-run", f"--output={path}"), prepare)
        yield Case(f"pretrain --output, {name}", "run_pretrain", (*pretraining, f"--output={path}"), prepare)
        yield Case(f"--run-dir, {name}", "run_pretrain", (*pretraining, f"--run-dir={path}"), prepare)
        yield Case(f"preview, {name}", "run_pretrain", ("preview", "--pairs", "1", f"--output={path}"), prepare)
        yield Case(f"report, {name}", "experiments.report", ("{here}", f"--output={path}"), prepare)
        yield Case(f"compare, {name}", "experiments.compare", (f"--output={path}", "--inits", "random"), prepare)
        yield Case(f"curve, {name}", "experiments.curve", (f"--output={path}", "--validation=0.5"), prepare)


Content = dict[Any, Any]


def _payload() -> Content:
    state = dict(build_encoder("resnet20", seed=0).state_dict())
    said = {"digest": digest(state), "method": "simsiam", "pairs_seen": 10}
    whole = {"format": "fps-encoder", "version": 1, "arch": "resnet20", "width": 1}
    return {**whole, "state_dict": state, "provenance": said}


def _weight(make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Content], object]:
    def change(content: Content) -> None:
        content["state_dict"]["conv1.weight"] = make(content["state_dict"]["conv1.weight"])

    return change


CHECKPOINTS: dict[str, Callable[[Content], object]] = {
    "digest": lambda c: c["provenance"].update(digest="0" * 64),
    "digest a list": lambda c: c["provenance"].update(digest=[1]),
    "weight changed": _weight(lambda t: t + 1e-6),
    "not a number": _weight(lambda t: t * float("nan")),
    "infinite": _weight(lambda t: t.double() * 1e300),
    "sparse": _weight(lambda t: t.to_sparse()),
    "meta": _weight(lambda t: t.to("meta")),
    "complex": _weight(lambda t: t.to(torch.complex64)),
    "whole numbers": _weight(lambda t: t.long()),
    "booleans": _weight(lambda t: t > 0),
    "expanded": _weight(lambda t: torch.zeros(1).expand(10**12)),
    "empty tensor": _weight(lambda t: torch.empty(0)),
    "width a tensor": lambda c: c.update(width=torch.ones(2)),
    "width None": lambda c: c.update(width=None),
    "width huge": lambda c: c.update(width=10**30),
    "version a tensor": lambda c: c.update(version=torch.ones(2)),
    "version 2": lambda c: c.update(version=2),
    "arch a list": lambda c: c.update(arch=["resnet20"]),
    "arch another": lambda c: c.update(arch="resnet56"),
    "no weights": lambda c: c.update(state_dict={}),
    "weights a list": lambda c: c.update(state_dict=[torch.ones(2)]),
    "weights missing": lambda c: c.pop("state_dict"),
    "odd keys alone": lambda c: c.update(state_dict={3: torch.ones(2), None: torch.ones(2), (1, 2): torch.ones(2)}),
    "nothing": lambda c: c.clear(),
}

CURVES: dict[str, Callable[[Content], object]] = {
    "pairs huge": lambda c: c["provenance"].update(pairs_seen=10**40),
    "pairs negative": lambda c: c["provenance"].update(pairs_seen=-1),
    "pairs true": lambda c: c["provenance"].update(pairs_seen=True),
    "pairs text": lambda c: c["provenance"].update(pairs_seen="10"),
    "provenance a list": lambda c: c.update(provenance=[1]),
    "provenance missing": lambda c: c.pop("provenance"),
}


def _saved(change: Callable[[Content], object]) -> Callable[[Path], None]:
    def prepare(here: Path) -> None:
        content = _payload()
        change(content)
        torch.save(content, here / "encoder.pt")

    return prepare


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def prepare(here: Path) -> None:
        torch.save(_payload(), here / "encoder.pt")
        (here / "encoder.pt").write_bytes(change((here / "encoder.pt").read_bytes()))

    return prepare


def _checkpoints() -> Iterator[Case]:
    files = {name: _saved(change) for name, change in CHECKPOINTS.items()}
    files["empty file"] = _bytes(lambda data: b"")
    files["half a file"] = _bytes(lambda data: data[: len(data) // 2])
    files["zeros in the middle"] = _bytes(lambda data: data[:500_000] + bytes(4096) + data[504_096:])
    files["text"] = _bytes(lambda data: b"hello")
    for place in range(20):
        files[f"bit flipped at {place}"] = _bytes(lambda data, place=place: _flipped(data, 2000 + place * 50_000))
    federation = (*FEDERATION, "--init", "{here}/encoder.pt", "--output", "{here}/run")
    curve = ("{here}/encoder.pt", "--output", "{here}/curve", "--measures", "knn", "--threads", "1")
    for name, prepare in files.items():
        yield Case(f"--init, {name}", "run_fl", federation, prepare)
        yield Case(f"curve of {name}", "experiments.curve", curve, prepare)
    for name, change in CURVES.items():
        yield Case(f"curve, {name}", "experiments.curve", curve, _saved(change))


def _flipped(data: bytes, at: int) -> bytes:
    """The file with a bit of its weights changed: of a record, not of the padding between two."""
    weights = build_encoder("resnet20", seed=0).state_dict()["layer3.0.conv2.weight"].numpy().tobytes()
    start = data.index(weights)
    at = start + at % len(weights)
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


YAML = {
    "NUL": "rounds: \0",
    "nested": "a: " + "[" * 3000,
    "huge number": "rounds: " + "9" * 5000,
    "date": "rounds: 2024-13-45",
    "tag": "rounds: !!int x",
    "object": "rounds: !!python/object/apply:os.system [ls]",
    "binary": "rounds: !!binary aGk=",
    "list": "- 1",
    "text": "hello",
    "twice": "rounds: 1\nrounds: 2",
    "no option": "round: 3",
    "mapping": "rounds: {a: 1}",
    "range": "rounds: 0",
    "anchor to itself": "rounds: &a [*a]",
    "not UTF-8": "rounds: \udcff",
}


def _yaml_files() -> Iterator[Case]:
    for name, text in YAML.items():

        def prepare(here: Path, text: str = text) -> None:
            (here / "c.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))

        yield Case(f"--config, {name}", "run_fl", ("--config", "{here}/c.yaml", "--output={here}/run"), prepare)


ROW: dict[str, Any] = {"round": 0, "test_accuracy": 0.5, "test_loss": 1.0, "val_accuracy": 0.5, "seconds": 1.0}

HISTORIES = {
    "no mapping": "[1, 2]",
    "a number": "3",
    "no round": json.dumps({**ROW, "round": None}),
    "round text": json.dumps({**ROW, "round": "1"}),
    "round negative": json.dumps({**ROW, "round": -1}),
    "round skipped": json.dumps({**ROW, "round": 2}),
    "round again": json.dumps({**ROW, "round": 0}),
    "accuracy a list": json.dumps({**ROW, "round": 1, "test_accuracy": [0.5]}),
    "accuracy text": json.dumps({**ROW, "round": 1, "test_accuracy": "0.5"}),
    "accuracy infinite": json.dumps({**ROW, "round": 1, "test_accuracy": float("inf")}),
    "loss not a number": json.dumps({**ROW, "round": 1, "test_loss": float("nan")}),
    "loss huge": json.dumps({**ROW, "round": 1, "test_loss": 10**400}),
    "loss of 5,000 digits": '{"round": 1, "seconds": 1, "test_loss": ' + "9" * 5000 + "}",
    "clients text": json.dumps({**ROW, "round": 1, "client_accuracies": ["a"]}),
    "fine-tuned clients of another number": json.dumps(
        {**ROW, "round": 1, "client_accuracies": [0.5], "fine_tuned_accuracies": [0.5, 0.5]}
    ),
    "seconds missing": json.dumps({"round": 1, "test_accuracy": 0.5}),
    "nested": "[" * max(5000, 2 * sys.getrecursionlimit()),
    "cut": '{"round": 1, "te',
    "not UTF-8": "\udcff",
}


def _histories() -> Iterator[Case]:
    """A line that is none, between two that are rounds."""
    for name, line in HISTORIES.items():

        def prepare(here: Path, line: str = line) -> None:
            (here / "run").mkdir()
            (here / "run" / "config.yaml").write_text(to_yaml(RunConfig(rounds=2)))
            text = "\n".join([json.dumps(ROW), line, json.dumps({**ROW, "round": 2})]) + "\n"
            (here / "run" / "metrics.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))

        yield Case(f"history, {name}", "experiments.report", ("{here}/run", "--output", "{here}/report"), prepare)


HEADER = "label,pairs,checkpoint,sha256,measure,seed,lr,accuracy\n"

TABLES = {
    "huge field": ("curve.csv", HEADER + '"' + "a" * 200_000 + '"'),
    "missing column": ("curve.csv", "label,pairs\na,1\n"),
    "no number": ("curve.csv", HEADER + "a,x,f,s,knn,0,0,0.5\n"),
    "accuracy beyond": ("curve.csv", HEADER + "a,1,f,s,knn,0,0,50\n"),
    "not finite": ("curve.csv", HEADER + "a,1,f,s,knn,0,0,nan\n"),
    "no measure": ("curve.csv", HEADER + "a,1,f,s,magic,0,0,0.5\n"),
    "pairs huge": ("curve.csv", HEADER + f"a,{10**40},f,s,knn,0,0,0.5\n"),
    "more cells": ("curve.csv", HEADER + "a,1,f,s,knn,0,0,0.5,1,2\n"),
    "fewer cells": ("curve.csv", HEADER + "a,1\n"),
    "summary empty": ("summary.csv", ""),
    "summary of nothing": ("summary.csv", "arm,seeds\na,1\n"),
    "summary huge field": ("summary.csv", "arm\n" + "a" * 200_000),
    "tuning of text": ("tuning.csv", "init,lr,seed,val_accuracy,chosen\na,x,0,0.5,yes\n"),
    "not UTF-8": ("summary.csv", "\udcff"),
}


def _tables() -> Iterator[Case]:
    for name, (file, text) in TABLES.items():

        def prepare(here: Path, file: str = file, text: str = text) -> None:
            (here / file).write_bytes(text.encode("utf-8", "surrogateescape"))

        yield Case(f"table, {name}", "experiments.table", ("{here}/" + file,), prepare)

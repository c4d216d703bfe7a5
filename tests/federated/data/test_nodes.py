"""Nodes with data of their own, on the in-process grid: what flwr run does, without its processes."""

from __future__ import annotations

import io
import json
import logging
import shlex
import shutil
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from PIL import Image

from federated import client_app as client_side
from federated import load_classifier, server_app
from federated.client.workspace import Workspace
from federated.client_app import client_app
from federated.config.run import RunConfig
from federated.engines.inprocess import InProcessGrid
from federated.server.output.run_folder import read_history
from federated.server.run import RunFailed, run
from fps_pretrain.common.errors import UserError
from tests.conftest import REPOSITORY
from tests.federated.conftest import outcome

Tiny = Callable[..., RunConfig]
LEVELS = {"dark": 30, "grey": 120, "light": 220}


def write_classes(folder: Path, count: int, *classes: str) -> None:
    """``count`` noisy images of each class, which a model tells apart by their brightness."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            rng = np.random.default_rng([number, LEVELS[name], len(str(folder))])
            pixels = rng.integers(LEVELS[name] - 25, LEVELS[name] + 25, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """A server's test examples, and two nodes that know two classes each."""
    write_classes(tmp_path / "server" / "test", 8, *LEVELS)
    write_classes(tmp_path / "node0" / "train", 10, "dark", "grey")
    write_classes(tmp_path / "node0" / "test", 4, "dark", "grey")
    write_classes(tmp_path / "node1" / "train", 6, "grey", "light")
    return tmp_path


def grid_of(places: Path, nodes: int = 2, **other: Any) -> InProcessGrid:
    grid = InProcessGrid(client_app, nodes)
    for number, context in enumerate(grid._contexts.values()):
        context.node_config = {"partition-id": number, "data": str(places / f"node{number}"), **other}
    return grid


def fields_of(places: Path, **fields: Any) -> dict[str, Any]:
    return {
        "dataset": f"folder:{places / 'server'}",
        "partition": "nodes",
        "clients": 2,
        "arch": "resnet8",
        "image_size": 8,
        "rounds": 2,
        "local_epochs": 1,
        "batch_size": 4,
        "threads": 1,
        "output": str(places / "run"),
        **fields,
    }


def flags_of(places: Path, **fields: Any) -> str:
    """Fields as ``flwr run``'s flags; None leaves one out."""
    given = {name: value for name, value in fields_of(places, **fields).items() if value is not None}
    return shlex.join(f"--{name.replace('_', '-')}={value}" for name, value in given.items())


def config_of(places: Path, **fields: Any) -> RunConfig:
    return RunConfig(**{**fields_of(places, **fields), "output": places / "run"})


def test_clients_train_on_what_their_nodes_hold(places: Path, pictures: None) -> None:
    result = run(config_of(places, per_client_every=1, head="centroid"), quiet=True, grid=grid_of(places))
    assert [row["clients"]["examples"] for row in result.history[1:]] == [[20, 12]] * 2
    # Class means of brightness need no training.
    assert result.history[0]["test_accuracy"] > 0.6
    for row in result.history:  # node 1 holds no test examples and is judged on its training examples
        assert len(row["client_accuracies"]) == 2
        assert None not in row["client_accuracies"]
    log = (result.folder / "log.txt").read_text()
    assert "2 clients with 12 to 20 examples (median 16) of 2 to 2 classes" in log
    assert (result.folder / "partition.png").is_file()


def test_a_node_that_cannot_evaluate_costs_its_accuracy(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = client_side.at_client

    def at_client(space: Workspace, client: int, *arguments: Any) -> tuple[float, float]:
        if client == 1:
            raise RuntimeError("no memory\nleft")
        return original(space, client, *arguments)

    monkeypatch.setattr(client_side, "at_client", at_client)
    result = run(config_of(places, per_client_every=1, rounds=1), quiet=True, grid=grid_of(places))
    for row in result.history:
        assert row["client_accuracies"] == [row["client_accuracy_mean"], None]
    log = (result.folder / "log.txt").read_text()
    assert "round 1: client 1 is not evaluated: left" in log


def test_the_server_app_is_the_same_run(places: Path) -> None:
    expected = run(config_of(places), quiet=True, grid=grid_of(places)).history
    context = Context(1, 1, {}, RecordDict(), {"config": "", "flags": flags_of(places, output=str(places / "app"))})
    server_app.server_app(grid_of(places), context)
    again = read_history(places / "app")
    assert [row["test_loss"] for row in again] == [row["test_loss"] for row in expected]
    assert json.loads((places / "app" / "evaluation.json").read_text())["examples"] == 24


@pytest.mark.parametrize(
    "fields", [{"strategy": "scaffold"}, {"strategy": "feddyn"}, {"strategy": "moon"}, {"bn_stats": "local"}]
)
def test_nodes_remember_in_memory_or_in_folders_of_their_own(places: Path, fields: dict[str, Any]) -> None:
    config = config_of(places, rounds=3, per_client_every=1, **fields)
    rows = run(config, quiet=True, grid=grid_of(places, **{"state-dir": str(places / "states")})).history
    assert rows[-1]["round"] == 3
    assert rows[-1]["failures"] == []
    assert len(list((places / "states").iterdir())) == 1  # one run
    in_folders = outcome(config.folder.rename(places / "in-folders"))
    assert outcome(run(config, quiet=True, grid=grid_of(places)).folder) == in_folders


def test_a_node_that_was_started_again_has_forgotten(places: Path) -> None:
    config = config_of(places, strategy="scaffold", rounds=3)
    grid = grid_of(places)

    original = grid.push_messages

    def push(messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        if messages[0].metadata.group_id == "2":
            grid._contexts[2].state = RecordDict()
        return original(messages)

    grid.push_messages = push  # type: ignore[method-assign]
    failures = [row["failures"] for row in run(config, quiet=True, grid=grid).history]
    assert [len(each) for each in failures] == [0, 0, 1, 1]
    assert "this node does not remember round 1" in failures[2][0]["reason"]
    assert "state-dir" in failures[2][0]["reason"]


def test_the_server_app_reads_a_file_under_its_options(places: Path) -> None:
    (places / "run.yaml").write_text("rounds: 1\npartition: shards\nshards_per_client: 9\nclients: 2\n")
    options = {"flags": flags_of(places, rounds=None), "config": str(places / "run.yaml")}
    context = Context(1, 1, {}, RecordDict(), options)
    server_app.server_app(grid_of(places), context)
    assert read_history(places / "run")[-1]["round"] == 1


def test_flower_knows_two_options_that_say_all_others() -> None:
    app = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert app["config"] == {"config": "", "flags": ""}
    assert server_app.config_of(app["config"]) == RunConfig()
    flags = "--strategy scaffold --lr 0.1 --output '/a folder/run' --tensorboard"
    expected = RunConfig(strategy="scaffold", lr=0.1, output=Path("/a folder/run"), tensorboard=True)
    assert server_app.config_of({"flags": flags}) == expected


def test_nodes_without_data(places: Path) -> None:
    with pytest.raises(RunFailed, match=r'does not answer: .*start this node with data="FOLDER" in its --node-config'):
        run(config_of(places), quiet=True, grid=InProcessGrid(client_app, 2))
    (places / "node1" / "train" / "light").rename(places / "node1" / "train" / "bright")
    with pytest.raises(RunFailed, match="has the class bright, which is none of the run's: dark, grey, light"):
        run(config_of(places), quiet=True, grid=grid_of(places))


def test_a_node_with_too_few_examples(places: Path) -> None:
    assert len(run(config_of(places, rounds=1, min_partition_size=12), quiet=True, grid=grid_of(places)).history) == 2
    shutil.rmtree(places / "run")
    words = "client 1 has 12 training examples, fewer than --min-partition-size 13"
    with pytest.raises(RunFailed, match=words):
        run(config_of(places, rounds=1, min_partition_size=13), quiet=True, grid=grid_of(places))


def test_without_flower_there_are_no_such_nodes(places: Path) -> None:
    with pytest.raises(UserError, match=r"--partition nodes is for flwr run"):
        run(config_of(places), quiet=True)
    with pytest.raises(UserError, match="--validation does not go with --partition nodes"):
        config_of(places, validation=0.1)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"flags": "--rounds 0"}, "--rounds must be at least 1, got 0\n"),
        ({"config": "nowhere.yaml"}, "--config nowhere.yaml cannot be read: No such file or directory\n"),
        ({"flags": "--lerning-rate 1"}, "Unrecognized options: --lerning-rate, 1\n"),
        ({"flags": "--rounds many"}, "--rounds: invalid literal for int() with base 10: 'many'\n"),
        (
            {"flags": "--partition iid --alpha 0.3"},
            "--alpha goes with --partition dirichlet or inner-dirichlet, not with iid\n",
        ),
        ({"flags": "--output 'runs"}, "flags cannot be split into words: No closing quotation\n"),
        ({"flags": "--help"}, "run_fl.py --help shows the flags\n"),
        ({"lr": 0.1}, 'lr is no option of the app: flags="--lr VALUE" takes those of run_fl.py\n'),
    ],
)
def test_flower_tells_what_is_wrong_in_one_line(options: dict[str, Any], line: str) -> None:
    context = Context(1, 1, {}, RecordDict(), options)
    said = said_by_flower(lambda: server_app.server_app(InProcessGrid(client_app, 1), context))
    assert said == f"ServerApp raised an exception: {line}"


def test_flower_tells_how_to_go_on_and_keeps_other_tracebacks() -> None:
    def fail(error: Exception) -> None:
        logging.getLogger("flwr").addFilter(server_app.without_traceback)
        raise error

    resumable = said_by_flower(lambda: fail(RunFailed("3 of 3 clients\nfailed")))
    assert resumable.endswith("3 of 3 clients failed; the same command goes on from the last completed round\n")
    assert resumable.count("\n") == 1
    assert "Traceback" in said_by_flower(lambda: fail(ZeroDivisionError("a mistake of ours")))


def test_nodes_are_not_waited_for_without_end() -> None:
    grid = InProcessGrid(client_app, 2)
    server_app.wait_for_nodes(grid, 2, timeout=0.0)
    with pytest.raises(UserError, match=r"^2 of 3 nodes are connected after 0\.1 s \(--node-timeout\)"):
        server_app.wait_for_nodes(grid, 3, timeout=0.1)


def test_nodes_may_come_late(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid, slept = grid_of(places), list[float]()
    monkeypatch.setattr(server_app.time, "sleep", slept.append)
    monkeypatch.setattr(grid, "get_node_ids", lambda: [2, 3][: 1 + len(slept) // 3])
    server_app.server_app(grid, Context(1, 1, {}, RecordDict(), {"flags": flags_of(places, rounds=1)}))
    assert len(slept) >= 3
    assert read_history(places / "run")[-1]["failures"] == []


def said_by_flower(app: Callable[[], None]) -> str:
    """What Flower's log has of an app that raises, logged as Flower does."""
    flower, text = logging.getLogger("flwr"), io.StringIO()
    handler = logging.StreamHandler(text)
    try:
        app()
    except Exception as error:
        flower.addHandler(handler)
        flower.log(logging.ERROR, "%s raised an exception", "ServerApp", exc_info=error)
    finally:
        flower.removeHandler(handler)
        flower.removeFilter(server_app.without_traceback)
    return text.getvalue()


def test_nodes_get_what_never_changes_once(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, int, bool]] = []
    original = InProcessGrid.handle

    def handle(self: InProcessGrid, message: Message) -> Message:
        if message.metadata.message_type != "query":
            node, arrays = message.metadata.dst_node_id, message.content.array_records
            sent.append((message.metadata.group_id, node, "fixed" in arrays))
            if message.metadata.group_id == "3" and node == 3:
                self._contexts[node].state = RecordDict()  # the node was started again
        return original(self, message)

    monkeypatch.setattr(InProcessGrid, "handle", handle)
    config = config_of(places, train="head", rounds=5)
    rows = run(config, quiet=True, grid=grid_of(places)).history
    assert [(group, node) for group, node, fixed in sent if fixed] == [("1", 2), ("1", 3), ("4", 3)]
    reason = "LookupError: the fixed part of the model is lost here; it comes again with the next message"
    assert [row["failures"] for row in rows] == [[], [], [], [{"client": 1, "reason": reason}], [], []]


def test_nodes_keep_heads_and_fine_tune(places: Path) -> None:
    fields: dict[str, Any] = {"personal": "head", "train": "last-block", "fine_tune_epochs": 2, "rounds": 2}
    config = config_of(places, **fields)
    in_memory = outcome(run(config, quiet=True, grid=grid_of(places)).folder)  # beside the part that came once
    shutil.rmtree(config.folder)
    grid = grid_of(places, **{"state-dir": str(places / "states")})
    rows = run(config, quiet=True, grid=grid).history
    assert outcome(config.folder) == in_memory
    assert len(rows[-1]["client_accuracies"]) == len(rows[-1]["fine_tuned_accuracies"]) == 2
    assert not (config.folder / "clients").exists(), "heads stay at the nodes"
    assert len(list((places / "states").glob("*/*/2.pt"))) == 2
    with pytest.raises(UserError, match="has nothing of client 0's own: it took no part, or its node keeps it"):
        load_classifier(config.folder, client=0)

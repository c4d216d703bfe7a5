from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg as FlowerFedAvg
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from federated.client_app import client_app
from federated.engines.inprocess import InProcessGrid
from federated.messages import copy_of, from_record, to_record


def test_canary_for_the_private_identity_flower_reads_in_messages() -> None:
    """When this fails, Flower has moved what ``Message()`` reads its sender from: change grid.py, the only user."""
    InProcessGrid(ClientApp(), 1)
    assert (TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id) == (1, 1, 1)
    message = Message(RecordDict(), 2, "train")
    assert (message.metadata.run_id, message.metadata.src_node_id, message.metadata.src_task_id) == (1, 1, 1)


def echoing() -> tuple[InProcessGrid, list[int]]:
    app, handled = ClientApp(), []

    @app.query()
    def query(message: Message, context: Context) -> Message:
        handled.append(int(context.node_config["partition-id"]))
        if context.node_config["partition-id"] == 1:
            raise ValueError("this node is broken")
        return Message(message.content, reply_to=message)

    return InProcessGrid(app, 3), handled


def test_nodes_are_partitions_in_order() -> None:
    grid, handled = echoing()
    assert list(grid.get_node_ids()) == [2, 3, 4]
    replies = list(grid.send_and_receive(Message(RecordDict(), node, "query") for node in (4, 2)))
    assert handled == [2, 0]
    assert [reply.metadata.src_node_id for reply in replies] == [4, 2]


def test_messages_are_worked_on_when_pulled() -> None:
    grid, handled = echoing()
    sent = list(grid.push_messages([grid.create_message(RecordDict(), "query", node, "1") for node in (2, 4)]))
    assert handled == []
    assert [reply.metadata.reply_to_message_id for reply in grid.pull_messages(sent)] == sent[:1]
    assert [reply.metadata.reply_to_message_id for reply in grid.pull_messages(sent)] == sent[1:]
    assert list(grid.pull_messages(sent)) == []


def test_an_exception_is_an_error_reply() -> None:
    grid, _ = echoing()
    (reply,) = grid.send_and_receive([Message(RecordDict(), 3, "query")])
    assert reply.has_error()
    assert "this node is broken" in str(reply.error.reason)


def test_run_is_kept() -> None:
    grid, _ = echoing()
    run = Run.create_empty(7)
    grid.set_run(run)
    assert grid.run is run


def test_flowers_own_strategy_and_loop_work_on_it() -> None:
    app = ClientApp()

    @app.train()
    @app.evaluate()
    def work(message: Message, context: Context) -> Message:
        metrics = MetricRecord({"num-examples": 1 + int(context.node_config["partition-id"]), "loss": 0.5})
        content = RecordDict({"arrays": message.content["arrays"], "metrics": metrics})
        return Message(content, reply_to=message)

    result = FlowerFedAvg().start(InProcessGrid(app, 3), ArrayRecord({"w": torch.ones(2)}), num_rounds=2)
    np.testing.assert_allclose(result.arrays["w"].numpy(), 1)


def test_query_tells_the_partition() -> None:
    grid = InProcessGrid(client_app, 2)
    replies = grid.send_and_receive([Message(RecordDict(), node, "query") for node in grid.get_node_ids()])
    assert [reply.content.config_records["node"] for reply in replies] == [
        ConfigRecord({"partition-id": 0}),
        ConfigRecord({"partition-id": 1}),
    ]


@pytest.mark.parametrize("shape", [(), (0,), (3, 4), (2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.uint8])
def test_records_come_back_as_they_were(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = (torch.rand(shape) * 100).to(dtype)
    record = ArrayRecord({"t": tensor})
    back = from_record(record)["t"]
    assert back.dtype == dtype
    assert torch.equal(back, tensor)
    back += 1
    assert torch.equal(from_record(record)["t"], tensor), "the record's bytes were written to"


@pytest.mark.parametrize("shape", [(), (0,), (3, 4), (2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int64])
def test_records_are_flowers_own_to_the_byte(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = (torch.rand(shape) * 100).to(dtype)
    if len(shape) == 4:
        tensor = tensor.to(memory_format=torch.channels_last)
    flowers, ours = ArrayRecord({"t": tensor}), to_record({"t": tensor.contiguous()})
    assert ours == flowers
    assert ours.object_id == flowers.object_id
    assert copy_of(ours) == ours
    copy_of(ours).clear()
    assert list(ours) == ["t"]


def test_records_in_fortran_order() -> None:
    values = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    assert torch.equal(from_record(ArrayRecord({"t": Array(values)}))["t"], torch.arange(6.0).double().reshape(2, 3))

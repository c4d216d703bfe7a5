"""An ordinary Flower app, as Flower's quick start for PyTorch has it, on Flower's simulation."""

from __future__ import annotations

from functools import cache

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import Tensor, nn

from benchmarks.federation.work import Work, stamp

client_app = ClientApp()
server_app = ServerApp()


@cache
def _loaded() -> tuple[Work, nn.Module, list[tuple[Tensor, Tensor]]]:
    """Once in each actor: work, network and data."""
    work = Work.of_environment()
    torch.set_num_threads(1)
    return work, work.network(), work.examples()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """A client's round."""
    work, model, examples = _loaded()
    number = int(context.node_config["partition-id"])
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    images, labels = examples[number]
    work.train(model, images, labels, torch.Generator().manual_seed(number))
    metrics = MetricRecord({"num-examples": len(labels)})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """All rounds."""
    work = Work.of_environment()
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=work.clients, min_available_nodes=work.clients)

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        if server_round:
            stamp(server_round)
        return MetricRecord()

    strategy.start(grid, ArrayRecord(work.network().state_dict()), num_rounds=work.rounds, evaluate_fn=evaluate)


def simulate(work: Work) -> None:
    """The app on Flower's simulation with as many actors as the work says."""
    from flwr.simulation import run_simulation

    run_simulation(
        server_app,
        client_app,
        num_supernodes=work.clients,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": work.actors, "include_dashboard": False},
        },
    )

"""Flower's ServerApp: the round loop on the grid that Flower lends (``flwr run .``)."""

from __future__ import annotations

import yaml
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from federated import rounds
from federated.config import from_yaml

server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """The run that ``context.run_config`` describes (flags without their dashes in front), on Flower's own grid."""
    fields = {name.replace("-", "_"): value for name, value in context.run_config.items()}
    rounds.run(from_yaml(yaml.safe_dump(fields)), grid=grid)

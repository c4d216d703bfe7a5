"""How far do clients drift apart? ``python -m experiments.analyses.drift RUN...``.

Each client's update (its trained weights minus the global model it started from) is set against the server's (the mean
by examples) and against the other clients', for each layer and for the whole model. Buffers are left out.

- norm: mean length of a client's update.
- distance: mean length of a client's update minus the server's.
- to_server, to_clients: mean cosine between a client's update and the server's, and between two clients'.
- variance: mean squared distance to the server's update, by examples.
- diversity: sum of the squared lengths over the squared length of the sum (Yin et al. 2018, "Gradient Diversity: a Key
  Ingredient for Scalable Distributed Learning", definition 1): 1/K if all K updates agree, 1 if they are orthogonal.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from experiments.analyses import output
from experiments.report.runs import OfRuns, RunFolders
from fps_pretrain.common import cli, plots
from fps_pretrain.common.wording import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

PROG = "experiments.analyses.drift"

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""BatchNorm's entries of a state dict that are no parameters."""

ALL = "all"
"""The name of the whole model among the layers."""


@dataclass(frozen=True)
class DriftConfig(OfRuns):
    """Distances and angles between clients' updates, by layer."""

    runs: RunFolders
    """Run folders that keep their clients' models (--keep-clients-every)."""
    output: Path = output.FOLDER
    """Folder for drift.csv, .txt and .png."""


class Drift(NamedTuple):
    """The measures of the module's docstring, of one layer or of all."""

    norm: float
    distance: float
    to_server: float
    to_clients: float
    variance: float
    diversity: float

    @property
    def relative(self) -> float:
        """The distance relative to the length."""
        return self.distance / max(self.norm, 1e-12)


def drift(updates: Tensor, shares: Tensor) -> Drift:
    """Measure updates.

    Args:
        updates: one row a client ``(K, D)``.
        shares: each client's share of the examples ``(K,)``; they add up to 1.
    """
    import torch
    from torch.nn.functional import normalize

    updates, shares = updates.double(), shares.double()
    server = shares @ updates
    apart = (updates - server).norm(dim=1)
    units = normalize(updates, dim=1)
    cosines = units @ units.T
    pairs = len(updates) * (len(updates) - 1)
    total = updates.sum(0).square().sum()
    return Drift(
        norm=float(updates.norm(dim=1).mean()),
        distance=float(apart.mean()),
        to_server=float((units @ normalize(server, dim=0)).mean()),
        to_clients=float((cosines.sum() - cosines.trace()) / pairs) if pairs else float("nan"),
        variance=float(shares @ apart.square()),
        diversity=float(updates.square().sum() / total) if total > 0 else float(torch.inf),
    )


def by_layer(start: Mapping[str, Tensor], updates: Sequence[Mapping[str, Tensor]], shares: Tensor) -> dict[str, Drift]:
    """``drift`` of each layer and of ``ALL``: a layer is all parameters of one module.

    Args:
        start: the state dict that the clients started from.
        updates: what of it each trained and sent ``(K,)``.
        shares: each client's share of the examples ``(K,)``.
    """
    import torch

    layers: dict[str, list[Tensor]] = {}
    for name, before in start.items():
        layer, _, kind = name.rpartition(".")
        if kind not in BUFFERS and all(name in update for update in updates):  # what is not sent does not drift
            difference = torch.stack([(update[name].double() - before.double()).ravel() for update in updates])
            layers.setdefault(layer, []).append(difference)
    joined = {layer: torch.cat(parts, dim=1) for layer, parts in layers.items()}
    joined[ALL] = torch.cat(list(joined.values()), dim=1)
    return {layer: drift(matrix, shares) for layer, matrix in joined.items()}


def measure(run: Path) -> list[tuple[int, dict[str, Drift]]]:
    """The drift of each round that a run keeps.

    Raises:
        UserError: it keeps none.
    """
    import torch

    from experiments.analyses.models import kept_rounds
    from federated.server.output import client_models

    found = []
    for number in kept_rounds(run):
        kept = client_models.load(run, number)
        shares = torch.tensor(kept.examples, dtype=torch.float64)
        found.append((number, by_layer(kept.start, kept.updates, shares / shares.sum())))
    return found


def analyse(config: DriftConfig) -> output.Result:
    """Measure all runs."""
    found = {run: measure(run) for run in config.runs}
    rows = [
        (run.name, number, layer, *values)
        for run, measured in found.items()
        for number, layers in measured
        for layer, values in layers.items()
    ]
    sentences = [_sentence(run, measured) for run, measured in found.items()]
    header = ("run", "round", "layer", *Drift._fields)
    return output.Result("drift", sentences, header, rows, _draw(found, output.by_arm(config.runs)))


def _sentence(run: Path, measured: list[tuple[int, dict[str, Drift]]]) -> str:
    whole = [layers[ALL] for _, layers in measured]
    norm, distance, to_server, _, _, diversity = (sum(v) / len(whole) for v in zip(*whole, strict=True))
    # A round with one client has no other's update to compare with.
    cosines = [one.to_clients for one in whole if not math.isnan(one.to_clients)]
    to_clients = f", to another client's {sum(cosines) / len(cosines):.2f}" if cosines else ""
    return (
        f"{run.name}: a client's update is {norm:.3g} long and {distance:.3g} away from the server's; its cosine to "
        f"the server's is {to_server:.2f}{to_clients}; gradient diversity {diversity:.2f} "
        f"({counted(len(whole), 'round')})."
    )


def _draw(found: Mapping[Path, list[tuple[int, dict[str, Drift]]]], arms: Sequence[tuple[str, list[Path]]]) -> Figure:
    """Over the rounds, and by layer in the last of them: distance relative to length, and cosine to the server's.

    A line is a run, a colour an arm.
    """
    figure = plots.new_figure(11, 7.5)
    panels = figure.subplots(2, 2)
    for number, (name, folders) in enumerate(arms):
        for place, measured in enumerate(found[folder] for folder in folders):
            rounds = [at for at, _ in measured]
            whole = [layers[ALL] for _, layers in measured]
            last = [values for layer, values in measured[-1][1].items() if layer != ALL]
            style = {"color": f"C{number}", "marker": ".", "label": None if place else plots.literal(name)}
            panels[0, 0].plot(rounds, [values.relative for values in whole], **style)
            panels[0, 1].plot(rounds, [values.to_server for values in whole], **style)
            panels[1, 0].plot([values.relative for values in last], **style)
            panels[1, 1].plot([values.to_server for values in last], **style)
    distance, cosine = "distance to the server's update,\nrelative to its own length", "cosine to the server's update"
    for axes, label in zip(panels.T.ravel(), 2 * [distance] + 2 * [cosine], strict=True):
        axes.set_ylabel(label)
        plots.style(axes, integer_x=True)
    for axes in panels[0]:
        axes.set_xlabel("round")
    for axes in panels[1]:
        axes.set_xlabel("layer (input to output), last saved round")
    panels[0, 0].legend(frameon=False)
    return figure


def main(config: DriftConfig) -> int:
    """Analyse and write; returns the exit code."""
    output.write(config.output, analyse(config))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(PROG, main, cli.parse(DriftConfig, PROG)))

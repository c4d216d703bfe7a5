"""The same work on Apple's pfl-research, in one process (``pip install --no-deps pfl==0.6 prv-accountant``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.federation.work import BATCH, Work, stamp
from federated.client.augmentation import augment
from fps_pretrain.images.pixels import normalise


def simulate(work: Work) -> None:
    """All rounds of federated averaging on pfl's simulated backend."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.aggregate.weighting import WeightByDatapoints
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam.base import NNTrainHyperParams
    from pfl.metrics import Metrics, Weighted
    from pfl.model.pytorch import PyTorchModel

    torch.set_num_threads(1)
    examples, generator = work.examples(), torch.Generator().manual_seed(0)

    class Network(nn.Module):
        """The classifier with the two methods that pfl asks for."""

        def __init__(self) -> None:
            super().__init__()
            self.classifier = work.network()

        def loss(self, images: Tensor, labels: Tensor) -> Tensor:
            self.train()
            picked = augment(images, torch.arange(len(images)), "standard", generator)
            return work.loss(self.classifier, normalise(picked), labels)

        def metrics(self, images: Tensor, labels: Tensor) -> dict[str, Any]:
            return {"count": Weighted(float(len(labels)), len(labels))}

    class Stamp(TrainingProcessCallback):
        """Tells when a round has ended."""

        def after_central_iteration(
            self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
        ) -> tuple[bool, Metrics]:
            stamp(central_iteration + 1)
            return False, Metrics()

    network = Network()
    sampler = get_user_sampler("minimize_reuse", list(range(work.clients)))
    data = FederatedDataset(lambda user: Dataset(raw_data=list(examples[user]), user_id=str(user)), sampler)
    model = PyTorchModel(
        network,
        lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=0.0005),
        torch.optim.SGD(network.parameters(), lr=1.0),
    )
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=work.rounds,
            evaluation_frequency=10**6,
            train_cohort_size=work.clients,
            val_cohort_size=0,
        ),
        SimulatedBackend(training_data=data, val_data=data, postprocessors=[WeightByDatapoints()]),
        model,
        NNTrainHyperParams(local_num_epochs=1, local_learning_rate=0.05, local_batch_size=BATCH),
        callbacks=[Stamp()],
    )

"""Names of the files and folders in a run's folder; nothing heavy is imported, so that any program may ask for them.

config.yaml     the configuration as resolved, and environment.json, the code and the machines it ran on
init.yaml       what became of the weights that it starts from, and the digest of its data
metrics.jsonl   one line a round, round 0 being the evaluation before training
partition.npz   which client holds which example, and partition.png, its picture
state.pt        the last completed round: its weights, what the strategy carries, whose client states count, the digest
                of the partition, and a checksum of all this
secret          with --dp: a number that only the server knows, readable by its owner alone
client_models/  with --keep-clients-every: the clients' models of some rounds, see client_models.py
clients/        what clients remember, with algorithms that need it, until the run is finished; see client/state.py
best.pt         with --keep-best: the classifier of the round with the highest validation accuracy so far
model.pt        the final classifier, once finished, and curve.png; evaluation.json and confusion.png follow
log.txt         the log, Flower's messages among it
tensorboard/    with --tensorboard: its events; wandb/, mlflow.db and mlflow-run with the options of these names
.lock           held by the process that works on the run
"""

from __future__ import annotations

from fps_pretrain.common import environment, trackers
from fps_pretrain.common.files import LOCK

CONFIG = "config.yaml"
INIT = "init.yaml"
DATA_DIGEST = "data_sha256"
"""Its field for the digest of images and labels."""
METRICS = "metrics.jsonl"
PARTITION = "partition.npz"
PARTITION_PICTURE = "partition.png"
STATE = "state.pt"
SECRET = "secret"
CLIENT_MODELS = "client_models"
CLIENT_STATES = "clients"
BEST = "best.pt"
MODEL = "model.pt"
CURVE = "curve.png"
EVALUATION = "evaluation.json"
CONFUSION = "confusion.png"
LOG = "log.txt"
TENSORBOARD = "tensorboard"

ALL = frozenset(
    (
        *(CONFIG, INIT, METRICS, PARTITION, PARTITION_PICTURE, STATE, SECRET, CLIENT_MODELS, CLIENT_STATES),
        *(BEST, MODEL, CURVE, EVALUATION, CONFUSION, LOG, LOCK, environment.FILE),
        *(TENSORBOARD, trackers.MLFLOW_ID, trackers.MLFLOW_STORE, "wandb"),
    )
)
"""Whatever a run may leave in its folder."""

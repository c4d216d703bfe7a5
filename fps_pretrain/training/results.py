"""What a run leaves: encoders on the way, the encoder at the end, and what they say about how they were made."""

from __future__ import annotations

import json
import os
import platform
from typing import Any

import pytorch_lightning as L
import torch
from pytorch_lightning.callbacks import Callback

from fps_pretrain.common.errors import UserError
from fps_pretrain.common.files import write_text_atomically
from fps_pretrain.common.log import logger
from fps_pretrain.config.pretrain import MAY_DIFFER_ON_RESUME, PretrainConfig
from fps_pretrain.methods.average import encoder_of
from fps_pretrain.methods.base import PairMethod
from fps_pretrain.models.card import federation_command
from fps_pretrain.models.checkpoint import save_encoder
from fps_pretrain.probing.quality import QualityProbe, describe
from fps_pretrain.training.run_folder import RESULT
from fps_pretrain.training.trainer import LIGHTNING_PRECISION


def check_output(config: PretrainConfig) -> None:
    """Make the folder of ``--output``.

    Raises:
        UserError: it cannot be made, or is not writable.
    """
    assert config.output is not None
    folder = config.output.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"--output {config.output}: {error.filename} is a file, not a folder") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"--output {config.output}: the folder {folder} is not writable")


def provenance(quality: QualityProbe, measures: dict[str, float], pairs_seen: int) -> dict[str, Any]:
    """What made the weights and what was measured of them, in plain values."""
    import lightly
    import numba

    config = quality.config
    return {
        "method": config.method,
        "recipe": quality.source.description(),
        "config": {n: v for n, v in config.to_dict().items() if n not in MAY_DIFFER_ON_RESUME},
        "pairs_seen": pairs_seen,
        "seed": config.seed,
        "devices": config.world_size,
        "precision": LIGHTNING_PRECISION[config.precision],
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),  # a str subclass, which weights_only refuses
            "lightning": L.__version__,
            "lightly": lightly.__version__,
            "numba": numba.__version__,
        },
        "probe": quality.in_short(measures),
    }


class EncoderEveryFewEpochs(Callback):
    """Writes the encoder alone into the run folder every ``save_every`` epochs (the paper's recipe: 10).

    Args:
        config: a resolved configuration.
        quality: measures the encoder; None in the processes that write nothing.
    """

    def __init__(self, config: PretrainConfig, quality: QualityProbe | None) -> None:
        self.config = config
        self.quality = quality

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Save after the last step of every ``save_every``-th epoch.

        Not in Lightning's hook for the end of an epoch: a run that resumes from that step's state does not call it.
        """
        epoch, step = divmod(trainer.global_step, self.config.steps_per_epoch)
        if step or epoch % self.config.save_every:
            return
        assert isinstance(pl_module, PairMethod)
        pl_module.refuse_if_diverged(weights=True)
        if self.quality is None:
            return
        assert self.config.run_dir is not None
        assert self.config.batch_size is not None
        path = self.config.run_dir / f"encoder-epoch{epoch:03d}.pt"
        pairs_seen = trainer.global_step * self.config.batch_size
        encoder = encoder_of(trainer, pl_module)
        measures, _ = self.quality.measured_at(trainer.global_step, encoder)
        made = provenance(self.quality, measures, pairs_seen)
        save_encoder(path, encoder, self.config.arch, self.config.width, made)


def finish(method: PairMethod, trainer: L.Trainer, quality: QualityProbe, seconds: float) -> None:
    """Measure the encoder for the last time and write it.

    Args:
        method: the trained method.
        trainer: what has trained it.
        quality: measures the encoder.
        seconds: how long training took.
    """
    config = quality.config
    assert config.batch_size is not None
    assert config.output is not None
    assert config.run_dir is not None
    encoder = encoder_of(trainer, method)
    measures = quality.look(trainer, encoder)
    pairs_seen = trainer.global_step * config.batch_size
    name = quality.data.name
    made = provenance(quality, measures, pairs_seen)
    digest, kept = save_encoder(config.output, encoder, config.arch, config.width, made)
    if kept:
        logger.info("%s existed and is kept as %s", config.output, kept)
    result = {"digest": digest, "pairs_seen": pairs_seen, "probe": made["probe"]}
    write_text_atomically(config.run_dir / RESULT, json.dumps(result, indent=1) + "\n")
    logger.info(
        f"{pairs_seen:,} pairs in {seconds:.0f} s; {describe(measures, name)} "
        f"(random weights: {describe(quality.baseline, name)})"
    )
    logger.info(f"training page: {config.run_dir / 'training.html'}")
    written = {"arch": config.arch, "width": config.width, "provenance": made}
    start = federation_command(written, str(config.output))
    logger.info(f"wrote {config.output} (digest {digest[:12]}); start a federation: {start}")

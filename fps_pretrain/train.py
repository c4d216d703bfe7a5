"""From a configuration to an encoder checkpoint: a Lightning Trainer over fractal pairs."""

from __future__ import annotations

import logging
import os
import platform
import sys
import time
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from fps_pretrain.checkpoint import keep_existing, save_encoder
from fps_pretrain.config import MAY_DIFFER_ON_RESUME, PretrainConfig, read_yaml, write_yaml
from fps_pretrain.data import FractalPairs
from fps_pretrain.errors import UserError
from fps_pretrain.methods import method_class
from fps_pretrain.methods.base import PairMethod
from fps_pretrain.models import build_encoder
from fps_pretrain.probe import digits_knn
from fps_pretrain.progress import PairProgress, StopOnSignal

STATE = "state.ckpt"
CONFIG = "config.yaml"
STATE_INTERVAL = timedelta(minutes=2)
CPU_PAIRS_PER_SECOND = 300
"""Order of magnitude for two CPU cores, to say what the paper's recipe would cost."""


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _uses_gpu(config: PretrainConfig) -> bool:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA device here; use --device cpu")
    return config.device != "cpu" and torch.cuda.is_available()


def _precision(config: PretrainConfig, gpu: bool) -> Any:
    """Lightning's name of the precision; ``auto`` takes bfloat16 where the hardware multiplies it."""
    if config.precision == "auto":
        capabilities = torch.cpu.get_capabilities()
        native = (
            torch.cuda.is_bf16_supported() if gpu else capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")
        )
        return "bf16-mixed" if native else "32-true"
    return {"32": "32-true", "bf16": "bf16-mixed"}[config.precision]


def _default_workers(gpu: bool) -> int:
    return max(1, min(8, (os.cpu_count() or 2) - 1)) if gpu else 1


def _open_run_dir(config: PretrainConfig) -> Path | None:
    """Make the run folder ready; returns the state to resume from, or None for a fresh start.

    Raises:
        UserError: the folder holds something else than a run of this configuration.
    """
    folder = config.run_dir
    assert folder is not None
    if not config.resume and (kept := keep_existing(folder)):
        _say(f"kept the earlier run as {kept}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not (folder / CONFIG).is_file():
            raise UserError(f"--run-dir {folder} exists and is not a pre-training run: name another folder")
        differing = config.differing_fields(read_yaml(folder / CONFIG))
        if differing:
            flags = ", ".join("--" + name.replace("_", "-") for name in differing)
            raise UserError(
                f"--run-dir {folder} holds a run with other {flags}: "
                "name another folder, or pass --no-resume to keep it aside and start over"
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_yaml(folder / CONFIG, config)
    state = folder / STATE
    return state if state.is_file() else None


def _provenance(config: PretrainConfig, pairs_seen: int, precision: str) -> dict[str, Any]:
    """What made the weights, in plain values."""
    import lightly
    import numba

    return {
        "method": config.method,
        "recipe": {**config.recipe()._asdict(), "source": "fractals"},
        "config": {n: v for n, v in config.to_dict().items() if n not in MAY_DIFFER_ON_RESUME},
        "pairs_seen": pairs_seen,
        "seed": config.seed,
        "precision": precision,
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),  # a str subclass, which weights_only refuses
            "lightning": L.__version__,
            "lightly": lightly.__version__,
            "numba": numba.__version__,
        },
    }


class EncoderEveryFewEpochs(Callback):
    """Writes the encoder alone into the run folder every ``save_every`` epochs (the paper's recipe: 10)."""

    def __init__(self, config: PretrainConfig, precision: str) -> None:
        self.config = config
        self.precision = precision

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save after every ``save_every``-th epoch."""
        epoch = trainer.current_epoch + 1
        if epoch % self.config.save_every or not isinstance(pl_module, PairMethod):
            return
        assert self.config.run_dir is not None
        assert self.config.batch_size is not None
        path = self.config.run_dir / f"encoder-epoch{epoch:03d}.pt"
        seen = trainer.global_step * self.config.batch_size
        save_encoder(
            path, pl_module.encoder, self.config.arch, self.config.width, _provenance(self.config, seen, self.precision)
        )


def _announce(config: PretrainConfig, gpu: bool, precision: str, resuming: bool) -> None:
    assert config.epochs is not None
    assert config.batch_size is not None
    pairs = config.epochs * config.steps_per_epoch * config.batch_size
    where = torch.cuda.get_device_name() if gpu else "CPU"
    _say(
        f"{config.method}, {config.arch} x {config.width}, {config.size} px, preset {config.preset}: "
        f"{config.epochs} epochs, {pairs:,} pairs in batches of {config.batch_size}, on {where} ({precision})"
    )
    if config.preset == "quick":
        days = 100_000_000 / CPU_PAIRS_PER_SECOND / 86_400
        _say(
            "the quick preset shows the pipeline; it does not make strong weights. --preset paper runs the paper's "
            f"100,000,000 pairs: about {days:.0f} days at {CPU_PAIRS_PER_SECOND} pairs/s on a CPU, hours on a GPU"
        )
    else:
        _say("--preset quick makes a small encoder in minutes instead")
    _say(f"{'resuming' if resuming else 'run folder'}: {config.run_dir}; encoder checkpoint: {config.output}")


def train(config: PretrainConfig) -> int:
    """Pre-train an encoder and write its checkpoint.

    Interrupted (Ctrl-C, SIGTERM) it saves its state in the run folder; the same command goes on from there.

    Returns:
        The process's exit code, 0.

    Raises:
        UserError: the configuration cannot run here, or an output is in the way.
        KeyboardInterrupt: after an interrupted run has saved its state.
    """
    gpu = _uses_gpu(config)
    config = config.resolve(gpu)
    assert config.output is not None
    config.output.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(config.output.parent, os.W_OK):
        raise UserError(f"--output {config.output}: the folder {config.output.parent} is not writable")
    precision = _precision(config, gpu)
    assert config.epochs is not None
    assert config.batch_size is not None
    assert config.run_dir is not None
    state = _open_run_dir(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    _announce(config, gpu, precision, resuming=state is not None)

    L.seed_everything(config.seed, workers=False, verbose=False)
    encoder = build_encoder(config.arch, config.width, config.seed)
    knn_before = digits_knn(encoder, config.size)
    method = method_class(config.method)(config, encoder).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", module="torch.utils.data")
    steps = config.epochs * config.steps_per_epoch
    stop = StopOnSignal(config.run_dir / STATE)
    trainer = L.Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=1,
        precision=precision,
        max_epochs=config.epochs,
        logger=[CSVLogger(config.run_dir, name="csv"), TensorBoardLogger(config.run_dir, name="tensorboard")],
        callbacks=[
            PairProgress(steps, config.batch_size),
            EncoderEveryFewEpochs(config, precision),
            ModelCheckpoint(
                config.run_dir,
                filename=Path(STATE).stem,
                train_time_interval=STATE_INTERVAL,
                enable_version_counter=False,
            ),
            stop,
        ],
        log_every_n_steps=config.log_every,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    workers = config.workers if config.workers is not None else _default_workers(gpu)
    started = time.monotonic()
    trainer.fit(method, datamodule=FractalPairs(config, workers), ckpt_path=state, weights_only=True)
    if stop.stopped:
        raise KeyboardInterrupt
    trainer.save_checkpoint(config.run_dir / STATE)

    pairs_seen = trainer.global_step * config.batch_size
    knn_after = digits_knn(method.encoder.to(memory_format=torch.contiguous_format), config.size)
    provenance = _provenance(config, pairs_seen, precision)
    provenance["probe"] = {"digits_knn": round(knn_after, 4), "digits_knn_random": round(knn_before, 4)}
    weights_digest, kept = save_encoder(config.output, method.encoder, config.arch, config.width, provenance)
    if kept:
        _say(f"{config.output} existed and is kept as {kept}")
    _say(
        f"{pairs_seen:,} pairs in {time.monotonic() - started:.0f} s; digits kNN accuracy {knn_after:.1%} "
        f"(random weights {knn_before:.1%})"
    )
    _say(
        f"wrote {config.output} (digest {weights_digest[:12]}); start a federation from it: "
        f"python run_fl.py --init {config.output}"
    )
    return 0

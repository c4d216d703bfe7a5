"""From a configuration to an encoder checkpoint: a Lightning Trainer over pairs of views."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import platform
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as L
import torch
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy

from fps_pretrain.common.cli import EXIT_INTERRUPTED
from fps_pretrain.common.errors import TrainingDiverged, UserError
from fps_pretrain.common.files import write_text_atomically
from fps_pretrain.config.pretrain import MAY_DIFFER_ON_RESUME, PretrainConfig
from fps_pretrain.images.folder import list_images
from fps_pretrain.methods import method_class
from fps_pretrain.methods.base import PairMethod
from fps_pretrain.models.checkpoint import save_encoder
from fps_pretrain.models.encoders import Encoder, build_encoder, check_encoder
from fps_pretrain.pairs.sources import PairData, make_source
from fps_pretrain.probing.probe_data import load_probe_data
from fps_pretrain.probing.quality import CollapseAlarm, PairRate, QualityProbe, describe, say
from fps_pretrain.training.progress import DataWait, PairProgress
from fps_pretrain.training.resume import KeepState, StateIO
from fps_pretrain.training.run_folder import RESULT, finished_result, open_run, result_of, tell_others, wait_for_first
from fps_pretrain.training.sync_batchnorm import CpuLayerSync

CPU_PAIRS_PER_SECOND = 300
"""Order of magnitude for two CPU cores at 32 px, to say what the paper's recipe would cost."""


def _uses_gpu(config: PretrainConfig) -> bool:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA device here; use --device cpu")
    gpu = config.device != "cpu" and torch.cuda.is_available()
    if gpu and config.devices > torch.cuda.device_count():
        raise UserError(f"--devices {config.devices}: torch finds {torch.cuda.device_count()} CUDA devices here")
    return gpu


def _device(gpu: bool) -> torch.device:
    """Where this process trains: launchers number the processes of a machine, and Lightning gives each its GPU."""
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0))))
        if gpu
        else torch.device("cpu")
    )


def _precision(config: PretrainConfig, gpu: bool) -> Any:
    """Lightning's name of the precision; ``auto`` takes bfloat16 where the hardware multiplies it."""
    if config.precision == "auto":
        capabilities = torch.cpu.get_capabilities()
        native = (
            torch.cuda.is_bf16_supported() if gpu else capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")
        )
        return "bf16-mixed" if native else "32-true"
    return {"32": "32-true", "bf16": "bf16-mixed"}[config.precision]


def _default_workers(gpu: bool, devices: int) -> int:
    return max(1, min(8, (os.cpu_count() or 2) // devices - 1)) if gpu else 1


def _provenance(quality: QualityProbe, measures: dict[str, float], pairs_seen: int, precision: str) -> dict[str, Any]:
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
        "precision": precision,
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
        precision: Lightning's name of it.
    """

    def __init__(self, config: PretrainConfig, quality: QualityProbe | None, precision: str) -> None:
        self.config = config
        self.quality = quality
        self.precision = precision

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Save after the last step of every ``save_every``-th epoch.

        Not at the epoch's end: a run that goes on from that step's state does not come by there again.
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
        measures, _ = self.quality.measured_at(trainer.global_step, pl_module.encoder)
        provenance = _provenance(self.quality, measures, pairs_seen, self.precision)
        save_encoder(path, pl_module.encoder, self.config.arch, self.config.width, provenance)


def _announce(config: PretrainConfig, gpu: bool, precision: str, state: Path | None) -> None:
    assert config.batch_size is not None
    pairs = config.total_steps * config.batch_size
    where = torch.cuda.get_device_name() if gpu else "CPU"
    if config.world_size > 1:
        where = f"{config.world_size} x {where}"
    source = f"pairs from {config.folder}" if config.folder else "pairs"
    say(
        f"{config.method}, {config.arch} x {config.width}, {config.view_size} px, preset {config.preset}: "
        f"{config.epochs} epochs, {pairs:,} {source} in batches of {config.batch_size}, on {where} ({precision})"
    )
    if config.preset == "quick":
        cost = ""
        if config.view_size <= 32:
            days = 100_000_000 / CPU_PAIRS_PER_SECOND / 86_400
            cost = f": about {days:.0f} days at {CPU_PAIRS_PER_SECOND} pairs/s on a CPU, hours on a GPU"
        say(
            "the quick preset shows the pipeline; it does not make strong weights. --preset short makes better ones in "
            "hours on a CPU; --preset paper runs the paper's "
            f"100 epochs{', 100,000,000 pairs' if config.folder is None else ''}{cost}"
        )
    else:
        say("--preset quick makes a small encoder in minutes instead")
    say(f"{'resuming' if state else 'run folder'}: {config.run_dir}; encoder checkpoint: {config.output}")


def _make_trainer(config: PretrainConfig, method: PairMethod, gpu: bool, precision: Any, callbacks: Any) -> L.Trainer:
    """The Trainer of a run; everything that is kept goes into the run folder."""
    assert config.run_dir is not None
    several = config.world_size > 1
    if gpu:  # cuDNN may otherwise choose another algorithm, with other roundings, the next time
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    plugins: list[Any] = [StateIO(config.run_dir)]
    sync = several and method.sync_batchnorm
    if sync and not gpu:
        plugins.append(CpuLayerSync())
    ddp = DDPStrategy(
        process_group_backend="nccl" if gpu else "gloo",
        broadcast_buffers=False,  # synchronised statistics agree anyway; those of MoCo are each device's own
        gradient_as_bucket_view=True,
    )
    return L.Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=config.devices,
        num_nodes=config.nodes,
        strategy=ddp if several else "auto",
        sync_batchnorm=sync and gpu,
        use_distributed_sampler=False,
        plugins=plugins,
        precision=precision,
        max_epochs=config.epochs,
        default_root_dir=config.run_dir,
        logger=[CSVLogger(config.run_dir, name="csv"), TensorBoardLogger(config.run_dir, name="tensorboard")],
        callbacks=callbacks,
        log_every_n_steps=config.log_every,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )


def _check_output(config: PretrainConfig) -> None:
    """Make the folder of ``--output``.

    Raises:
        UserError: it is not writable.
    """
    assert config.output is not None
    config.output.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(config.output.parent, os.W_OK):
        raise UserError(f"--output {config.output}: the folder {config.output.parent} is not writable")


def _build(config: PretrainConfig) -> tuple[Encoder, PairMethod]:
    """The encoder with its random weights, and the method around it.

    Raises:
        UserError: the encoder does not take images of this size, or the method not these options.
    """
    L.seed_everything(config.seed, workers=False, verbose=False)
    encoder: Encoder = build_encoder(config.arch, config.width, config.seed)
    check_encoder(encoder, config.arch, config.view_size)
    assert config.method is not None
    return encoder, method_class(config.method)(config, encoder)


def _compile(method: PairMethod, gpu: bool) -> None:
    """Have encoder and heads compiled at their first step; names and values of weights stay as they are.

    Raises:
        UserError: what torch.compile needs is missing.
    """
    if gpu and importlib.util.find_spec("triton") is None:
        raise UserError("--compile on a GPU needs triton, which torch comes with on Linux")
    compilers = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++"]
    if not gpu and not any(map(shutil.which, compilers)):
        raise UserError(f"--compile needs a C++ compiler ({' or '.join(compilers)}), and there is none here")
    for _, module in method.named_children():
        if any(True for _ in module.parameters()):
            module.compile(dynamic=False)


def _finish(
    config: PretrainConfig, method: PairMethod, trainer: L.Trainer, quality: QualityProbe, precision: str, since: float
) -> None:
    """Look at the encoder for the last time and write it."""
    assert config.batch_size is not None
    assert config.output is not None
    assert config.run_dir is not None
    measures = quality.look(trainer, method.encoder)
    pairs_seen = trainer.global_step * config.batch_size
    name = quality.data.name
    provenance = _provenance(quality, measures, pairs_seen, precision)
    digest, kept = save_encoder(config.output, method.encoder, config.arch, config.width, provenance)
    if kept:
        say(f"{config.output} existed and is kept as {kept}")
    result = {"digest": digest, "pairs_seen": pairs_seen, "probe": provenance["probe"]}
    write_text_atomically(config.run_dir / RESULT, json.dumps(result, indent=1) + "\n")
    say(
        f"{pairs_seen:,} pairs in {time.monotonic() - since:.0f} s; {describe(measures, name)} "
        f"(random weights: {describe(quality.baseline, name)})"
    )
    say(f"training page: {config.run_dir / 'training.html'}")
    say(f"wrote {config.output} (digest {digest[:12]}); start a federation: python run_fl.py --init {config.output}")


def train(config: PretrainConfig) -> int:
    """Pre-train an encoder and write its checkpoint.

    Interrupted (Ctrl-C, SIGTERM, even SIGKILL) it leaves a state in the run folder; the same command goes on from it.
    When several devices train, every one of their processes calls this.

    Returns:
        The process's exit code, 0.

    Raises:
        UserError: the configuration cannot run here, or an output is in the way.
        TrainingDiverged: loss or weights are no longer finite; the last good state is kept.
        KeyboardInterrupt: after an interrupted run has saved its state.
    """
    with contextlib.ExitStack() as held:
        return _train(config, held)


def _train(config: PretrainConfig, held: contextlib.ExitStack) -> int:
    """``train``; ``held`` keeps the run folder locked. Only rank 0 takes the lock: it speaks for the whole run."""
    gpu = _uses_gpu(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    images = len(list_images(config.folder)) if config.folder and config.pairs_per_epoch is None else None
    config = config.resolve(gpu, images)
    first = getattr(rank_zero_only, "rank", 0) == 0  # from the variables that launchers set
    encoder, method = _build(config)
    source = make_source(config, _device(gpu))
    precision = _precision(config, gpu)
    assert config.batch_size is not None
    assert config.run_dir is not None
    if config.compile:
        _compile(method, gpu)
    callbacks: list[Callback] = [
        PairProgress(config.total_steps, config.batch_size),
        PairRate(config.batch_size, config.log_every),
        DataWait(config.log_every),
        CollapseAlarm(config.log_every, config.total_steps),
    ]
    quality: QualityProbe | None = None
    if first:
        # A CPU takes minutes for thousands of images of 224 px.
        share = 1.0 if gpu else min(1.0, (64 / config.view_size) ** 2)
        data = load_probe_data(config.probe_data, config.view_size, share)
        result, state = finished_result(config), None
        if result is None:
            _check_output(config)
            state = open_run(config, say, held)
            result = result_of(config)  # another process may have finished it meanwhile
        if result:
            say(
                f"finished: {config.run_dir} has trained on its {result['pairs_seen']:,} pairs and {config.output} "
                "holds the encoder; --no-resume starts over"
            )
            return 0
        if config.world_size > 1:
            tell_others(config.run_dir, state)
        _announce(config, gpu, precision, state)
        quality = QualityProbe(config, source, data, encoder)
        callbacks.append(quality)
    else:
        state = wait_for_first(config.run_dir)
    method = method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    keep = KeepState(config.run_dir, config.state_every, config.log_every)
    callbacks += [EncoderEveryFewEpochs(config, quality, precision), keep]

    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", module="torch.utils.data")
    trainer = _make_trainer(config, method, gpu, precision, callbacks)
    workers = config.workers if config.workers is not None else _default_workers(gpu, config.devices)
    started = time.monotonic()
    try:
        trainer.fit(method, datamodule=PairData(config, source, workers), ckpt_path=state, weights_only=True)
        if keep.stopped:
            raise KeyboardInterrupt
        keep.save(trainer)
    except (TrainingDiverged, KeyboardInterrupt) as error:
        if not first:  # the first process speaks for all
            raise SystemExit(getattr(error, "exit_code", EXIT_INTERRUPTED)) from error
        if isinstance(error, KeyboardInterrupt):
            raise
        raise TrainingDiverged(
            f"{error}; the last good state is kept in {config.run_dir}, but the same command would come to the same "
            "step: start over with a lower --lr (--no-resume keeps this run aside)"
        ) from error
    except UserError as error:  # from a worker it comes with the text of a traceback around it
        raise UserError(str(error).rsplit("UserError: ", 1)[-1]) from error
    if quality is not None:
        _finish(config, method, trainer, quality, precision, started)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return 0

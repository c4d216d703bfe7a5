"""From a configuration to an encoder checkpoint."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from pytorch_lightning.callbacks import Callback

from fps_pretrain.common.cli import EXIT_INTERRUPTED, requeued
from fps_pretrain.common.errors import TrainingDiverged, UserError
from fps_pretrain.common.log import logger
from fps_pretrain.common.serve import serving
from fps_pretrain.common.trackers import check_trackers
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.images.folder import list_images
from fps_pretrain.methods.average import EncoderAverage
from fps_pretrain.methods.base import PairMethod
from fps_pretrain.models.encoders import build_encoder
from fps_pretrain.models.hardware import check_compiler, native_precision
from fps_pretrain.pairs.data_module import PairData, make_source
from fps_pretrain.pairs.sources import PairSource
from fps_pretrain.probing.collapse import CollapseAlarm
from fps_pretrain.probing.probe_data import ProbeData, load_probe_data
from fps_pretrain.probing.quality import QualityProbe
from fps_pretrain.training.announce import announce
from fps_pretrain.training.devices import default_workers, device_of_this_process, uses_gpu
from fps_pretrain.training.launch import Processes, Start
from fps_pretrain.training.loggers import loggers
from fps_pretrain.training.progress import DataWait, PairProgress, PairRate
from fps_pretrain.training.results import EncoderEveryFewEpochs, check_output, finish
from fps_pretrain.training.resume import KeepState
from fps_pretrain.training.run_folder import finished_result, open_run, result_of
from fps_pretrain.training.trainer import build_method, compile_networks, make_trainer


def train(config: PretrainConfig) -> int:
    """Pre-train an encoder and write its checkpoint.

    Interrupted (Ctrl-C, SIGTERM, even SIGKILL) it leaves a state in the run folder; the same command goes on from it.
    When several devices train, every one of their processes calls this.

    Returns:
        The process's exit code: 0, or, in a process other than rank 0, that with which rank 0 has ended.

    Raises:
        UserError: the configuration cannot run here, or an output is in the way.
        TrainingDiverged: loss or weights are no longer finite; the last good state is kept.
        KeyboardInterrupt: after an interrupted run has saved its state.
    """
    with ExitStack() as held:
        return _train(config, held)


def _train(config: PretrainConfig, held: ExitStack) -> int:
    """``train``; ``held`` keeps the run folder locked by rank 0."""
    gpu = uses_gpu(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    images = len(list_images(config.folder)) if config.folder and config.pairs_per_epoch is None else None
    config = config.resolve(gpu, images)
    if not config.resume and requeued():  # by the same command line, --no-resume and all
        config = replace(config, resume=True)
    # What cannot work is refused before anything is written.
    check_trackers(mlflow=config.mlflow)
    method = build_method(config)
    source = make_source(config, device_of_this_process(gpu))
    if config.compile:
        check_compiler(gpu)
        compile_networks(method)
    processes = Processes(config, gpu)
    data: list[ProbeData] = []  # rank 0 alone looks at labelled images
    start = processes.agree(lambda: _open(config, gpu, method, data, held))
    if start.exit_code is not None:
        processes.leave()
        return start.exit_code
    config = method.config = replace(config, precision=start.precision)
    quality: QualityProbe | None = None
    if processes.rank == 0:
        announce(config, gpu, resuming=start.state is not None)
        # The method may have changed its own encoder's weights already.
        quality = QualityProbe(config, source, data[0], build_encoder(config.arch, config.width, config.seed))
    code = _fit(config, method, source, quality, processes, start)
    processes.leave()
    return code


def _open(config: PretrainConfig, gpu: bool, method: PairMethod, data: list[ProbeData], held: ExitStack) -> Start:
    """Rank 0's part: load the probe's images into ``data``, open the run folder and decide how the run begins.

    Raises:
        UserError: the probe's images or an output cannot be used, or the run folder holds something else.
    """
    assert config.run_dir is not None
    held.enter_context(serving(config.run_dir, config.serve))
    # A CPU takes minutes for thousands of images of 224 px.
    share = 1.0 if gpu else min(1.0, (64 / config.view_size) ** 2)
    data.append(load_probe_data(config.probe_data, config.view_size, share))
    result, state = finished_result(config, native_precision(gpu)), None
    if result is None:
        check_output(config)
        config, state = open_run(config, native_precision(gpu), held, method.state_dict())
        result = result_of(config)  # Another process may have finished it before the lock was taken.
    if result:
        logger.info(
            f"finished: {config.run_dir} has trained on its {result['pairs_seen']:,} pairs and {config.output} "
            "holds the encoder; --no-resume starts over"
        )
        return Start(exit_code=0)
    return Start(state.name if state else None, config.precision)


@contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Turn the exit that Lightning makes of a KeyboardInterrupt, with code 1 and without a word, into one again.

    ``KeepState`` takes signals while steps are made; this is about those before, and about a second one.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as ended:
        if not isinstance(ended.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)  # which Lightning has ignored since
        raise KeyboardInterrupt from None


def _fit(
    config: PretrainConfig,
    method: PairMethod,
    source: PairSource,
    quality: QualityProbe | None,
    processes: Processes,
    start: Start,
) -> int:
    """Train, and write the encoder in the process that has ``quality``; returns the process's exit code."""
    assert config.run_dir is not None
    assert config.batch_size is not None
    method = method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    keep = KeepState(config.run_dir, config.state_every)
    callbacks: list[Callback] = [
        *([EncoderAverage(config.ema, device_of_this_process(processes.gpu))] if config.ema else []),
        PairProgress(config.total_steps, config.batch_size),
        PairRate(config.batch_size, config.log_every),
        DataWait(config.log_every),
        CollapseAlarm(config.log_every, config.total_steps, config.batch_size),
        *([quality] if quality is not None else []),
        EncoderEveryFewEpochs(config, quality),
        keep,
    ]
    records = loggers(config, first=processes.rank == 0)
    trainer = make_trainer(config, method, processes.gpu, callbacks, records, processes.environment)
    workers = config.workers if config.workers is not None else default_workers(processes.gpu, config.devices)
    pairs = PairData(config, source, workers)
    state = config.run_dir / start.state if start.state else None
    started = time.monotonic()
    try:
        with processes.telling_children(start), _interrupts_kept():
            trainer.fit(method, datamodule=pairs, ckpt_path=state, weights_only=True)
        if keep.stopped:
            raise KeyboardInterrupt
        keep.save(trainer)
    except (TrainingDiverged, KeyboardInterrupt) as error:
        if processes.rank:  # only rank 0 reports
            return getattr(error, "exit_code", EXIT_INTERRUPTED)
        if isinstance(error, KeyboardInterrupt):
            raise
        raise TrainingDiverged(
            f"{error}; the last good state is kept in {config.run_dir}, but the same command would come to the same "
            "step: start over with a lower --lr (--no-resume keeps this run aside)"
        ) from error
    except UserError as error:  # raised in a DataLoader's worker, it comes with a traceback as its text
        raise UserError(str(error).rsplit("UserError: ", 1)[-1]) from error
    if quality is not None:
        finish(method, trainer, quality, time.monotonic() - started)
    return 0

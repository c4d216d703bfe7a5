"""Several devices: here processes on CPUs with gloo, which take the same way as GPUs with NCCL."""

import csv
import os
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import multiprocessing, nn

from fps_pretrain import FPSPairs
from fps_pretrain.common.errors import UserError
from fps_pretrain.config.pretrain import PretrainConfig
from fps_pretrain.methods.moco import Method as MoCo
from fps_pretrain.methods.simsiam import Method as SimSiam
from fps_pretrain.models import checkpoint
from fps_pretrain.models.encoders import build_encoder
from fps_pretrain.pairs.loader import PairBatches
from fps_pretrain.pairs.sources import FractalSource
from fps_pretrain.training.sync_batchnorm import CpuLayerSync
from tests.fps_pretrain.training.processes import OPTIONS, free_port, start, torchrun, wait


def test_devices_share_the_pairs_of_a_step():
    source = FractalSource(PretrainConfig(size=16).recipe(), seed=3)
    whole = PairBatches(source, batch_size=12, steps_per_epoch=2)
    for world_size in (2, 3):
        shares = [PairBatches(source, 12, 2, rank, world_size) for rank in range(world_size)]
        for step in (0, 3):
            joined = torch.cat([share[step] for share in shares], dim=1)
            assert torch.equal(joined, whole[step])
    assert not torch.equal(whole[0], whole[1])


def _in_group(rank, world_size, port, works, results):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world_size)
    results[rank] = [work(rank) for work in works]
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def in_two_processes():
    """What ``work(rank)`` returns in each of two processes of a group, by ``work``. Starting them takes longest."""
    works = (_synchronised, _keys, _centred_loss, _pairs_of_a_loop)
    port = free_port()
    with multiprocessing.Manager() as manager:
        results = manager.dict()
        multiprocessing.start_processes(_in_group, (2, port, works, results), nprocs=2, start_method="forkserver")
        return {work: [results[rank][i] for rank in range(2)] for i, work in enumerate(works)}


def _layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 6),
                         nn.BatchNorm1d(6, affine=False)).double().float()  # fmt: skip


def _images():
    return torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1)) * 3 + 1


def _weights():
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(2))


def _synchronised(rank):
    model = CpuLayerSync().apply(_layers())
    part = slice(4 * rank, 4 * rank + 4)
    out = model(_images()[part])
    (out * _weights()[part]).mean().backward()
    gradients = [p.grad for p in model.parameters()]
    for gradient in gradients:  # as DDP does
        torch.distributed.all_reduce(gradient)
        gradient /= 2
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return out.detach().numpy(), [g.numpy() for g in gradients], state


def test_synchronised_batchnorm_is_batchnorm_of_the_whole_batch(in_two_processes):
    parts = in_two_processes[_synchronised]
    model = _layers()
    out = model(_images())
    (out * _weights()).mean().backward()
    np.testing.assert_allclose(np.concatenate([part[0] for part in parts]), out.detach(), atol=2e-5)
    for part in parts:
        for gradient, parameter in zip(part[1], model.parameters(), strict=True):
            np.testing.assert_allclose(gradient, parameter.grad, atol=2e-5)
        for name, tensor in model.state_dict().items():
            np.testing.assert_allclose(part[2][name], tensor, atol=2e-5, err_msg=name)


def _moco(world_size):
    config = PretrainConfig(
        method="moco", method_options=("queue=16",), batch_size=8, devices=world_size, epochs=1, pairs_per_epoch=8
    )
    torch.manual_seed(0)
    return MoCo(config, build_encoder("resnet20", seed=0))


def _keys(rank):
    method = _moco(2)
    torch.manual_seed(rank)
    method.momentum_encoder.eval()  # no batch statistics, so that the order is all that shuffling could change
    views = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    keys = method._encode_keys(views[4 * rank : 4 * rank + 4])
    method.queue.enqueue(keys)
    seen = []
    method.momentum_encoder.train()
    method.momentum_encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    method._encode_keys(views[4 * rank : 4 * rank + 4])
    return keys.numpy(), method.queue.bank.numpy(), seen[0].numpy()


def test_keys_are_shuffled_over_devices_and_come_back_in_order(in_two_processes):
    parts = in_two_processes[_keys]
    views = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    method = _moco(1)
    method.momentum_encoder.eval()
    keys = method._encode_keys(views)
    np.testing.assert_allclose(np.concatenate([part[0] for part in parts]), keys, atol=1e-6)
    np.testing.assert_array_equal(parts[0][1][:8], parts[1][1][:8])  # one queue, in the order of the pairs
    np.testing.assert_allclose(parts[0][1][:8], keys, atol=1e-6)
    encoded = np.concatenate([part[2] for part in parts])
    assert not np.array_equal(encoded, views.numpy())
    order = [int(np.flatnonzero([np.array_equal(e, v) for v in views.numpy()])[0]) for e in encoded]
    assert sorted(order) == list(range(8))


def _simsiam(world_size):
    options = ("centre=1",)
    return SimSiam(
        PretrainConfig(method="simsiam", method_options=options, batch_size=8, devices=world_size),
        build_encoder("resnet20", seed=0),
    )


def _skewed(part):
    draw = torch.Generator().manual_seed(3)
    return tuple((2 + torch.randn(8, 6, generator=draw))[part] for _ in range(4))


def _centred_loss(rank):
    z1, p1, z2, p2 = _skewed(slice(4 * rank, 4 * rank + 4))
    return float(_simsiam(2).pair_loss((z1, p1), (z2, p2)))


def test_the_centre_of_simsiams_targets_is_that_of_all_devices(in_two_processes):
    z1, p1, z2, p2 = _skewed(slice(None))
    whole = float(_simsiam(1).pair_loss((z1, p1), (z2, p2)))
    assert np.mean(in_two_processes[_centred_loss]) == pytest.approx(whole, abs=1e-6)


def _pairs_of_a_loop(rank):
    pairs = FPSPairs(batch_size=4, size=16, pairs=8)
    with pytest.raises(UserError, match="batch_size 5 must be a multiple of the 2 processes"):
        FPSPairs(batch_size=5, size=16)
    return [np.stack([first, second]) for first, second in pairs]


def test_the_processes_of_a_loop_share_its_batches(in_two_processes):
    shares = in_two_processes[_pairs_of_a_loop]
    whole = [np.stack([first, second]) for first, second in FPSPairs(batch_size=4, size=16, pairs=8)]
    assert len(whole) == 2
    for parts, expected in zip(zip(*shares, strict=True), whole, strict=True):
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), expected)


def losses(folder):
    rows = []
    for path in sorted((folder / "run" / "csv").glob("version_*/metrics.csv")):
        rows += [float(row["loss"]) for row in csv.DictReader(path.open())]
    return rows


def train(run_script, folder, devices, *options, launcher="torchrun"):
    """Train on one device or on two, whose processes torchrun starts, or Lightning."""
    folder.mkdir()
    options = [*OPTIONS, "--epochs", 2, *options, "--devices", devices]
    if devices == 1 or launcher == "lightning":
        done = run_script("run_pretrain.py", *options, "--run-dir", folder / "run", "--output", folder / "out.pt")
        assert done.returncode == 0, done.stderr
    else:
        port = free_port()
        tasks = [start(folder, options, torchrun(rank, port), folder / f"rank{rank}.log") for rank in range(2)]
        assert wait(tasks, 300) == [0, 0], (folder / "rank0.log").read_text()
    return checkpoint.read_file(folder / "out.pt")


@pytest.mark.promise
@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "tolerance"),
    [("simsiam", 2e-3), ("moco", 0.05), ("byol", 2e-3), ("vicreg", 2e-3), ("barlowtwins", 0.1)],
)
def test_two_processes_follow_the_loss_of_one(method, tolerance, run_script, tmp_path):
    """MoCo's BatchNorm sees half a batch on each of two devices, and so do the embeddings that lightly standardises for
    Barlow Twins: their curves are only near."""
    options = ["--method-options", "queue=512", "head_batchnorm=0"] if method == "moco" else []
    for devices in (1, 2):
        content = train(run_script, tmp_path / str(devices), devices, "--method", method, *options)
        assert content["provenance"]["pairs_seen"] == 192
    one, two = losses(tmp_path / "1"), losses(tmp_path / "2")
    assert len(one) == len(two) == 12
    np.testing.assert_allclose(one, two, atol=tolerance)


@pytest.mark.promise
@pytest.mark.slow
@pytest.mark.parametrize("method", ["simsiam", "simclr", "byol", "vicreg"])
def test_a_step_of_two_processes_is_that_of_one(method, run_script, tmp_path):
    """Gradients of what is gathered from all devices are neither lost nor counted twice.

    A tenth is for a rounding that carries a value over the kink of a ReLU.
    """
    launcher = "lightning" if method == "simsiam" else "torchrun"
    options = ["--method", method, "--pairs-per-epoch", 16, "--epochs", 1, "--lr", 1, "--weight-decay", 0]
    weights = []
    for devices in (1, 2):
        tensors = train(run_script, tmp_path / str(devices), devices, *options, launcher=launcher)["state_dict"]
        weights.append({name: tensor for name, tensor in tensors.items() if "running" not in name})
    begun = build_encoder("resnet8", seed=0).state_dict()
    for name, one in weights[0].items():
        moved = (one - begun[name]).norm() if one.is_floating_point() else 0
        assert (one - weights[1][name]).float().norm() <= 0.1 * moved + 1e-6, name


def start_tasks(folder, restarts, path):
    """Two tasks with the variables that srun gives them."""
    tasks = []
    for rank in range(2):
        variables = {
            "PATH": f"{path}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "774312",
            "SLURM_JOB_NAME": "fps-pretrain",
            "SLURM_STEP_ID": "0",
            "SLURM_RESTART_COUNT": str(restarts),
            "SLURM_NTASKS": "2",
            "SLURM_NTASKS_PER_NODE": "2",
            "SLURM_NNODES": "1",
            "SLURM_NODELIST": "127.0.0.1",
            "SLURM_PROCID": str(rank),
            "SLURM_LOCALID": str(rank),
            "SLURM_NODEID": "0",
        }
        options = [*OPTIONS, "--log-every", 2, "--epochs", 16, "--devices", 2]
        tasks.append(start(folder, options, variables, folder / f"task{rank}-{restarts}.log"))
    return SimpleNamespace(tasks=tasks, log=folder / f"task0-{restarts}.log")


@pytest.mark.promise
@pytest.mark.slow
def test_a_slurm_job_is_requeued_and_goes_on_exactly(tmp_path):
    """SIGUSR1, which Slurm sends before the time is up, to all tasks; scontrol is recorded, there being no Slurm."""
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path / "scontrol.log"}\n')
    scontrol.chmod(0o755)
    for name in ("whole", "requeued"):
        (tmp_path / name).mkdir()
    whole = start_tasks(tmp_path / "whole", 0, scontrol.parent)
    assert [task.wait(300) for task in whole.tasks] == [0, 0], whole.log.read_text()

    job = start_tasks(tmp_path / "requeued", 0, scontrol.parent)
    end = time.monotonic() + 120
    while "pre-training" not in job.log.read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
    for task in job.tasks:
        task.send_signal(signal.SIGUSR1)
    while not (tmp_path / "scontrol.log").exists():
        assert time.monotonic() < end, job.log.read_text()
        time.sleep(0.05)
    for task in job.tasks:  # as Slurm does with a requeued job
        task.kill()
        task.wait()
    assert (tmp_path / "scontrol.log").read_text().split() == ["requeue", "774312"]
    assert not (tmp_path / "requeued" / "out.pt").exists()

    again = start_tasks(tmp_path / "requeued", 1, scontrol.parent)
    assert [task.wait(300) for task in again.tasks] == [0, 0], again.log.read_text()
    assert "resuming" in again.log.read_text()
    digests = [checkpoint.read_file(tmp_path / n / "out.pt")["provenance"]["digest"] for n in ("whole", "requeued")]
    assert digests[0] == digests[1]

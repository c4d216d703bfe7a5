"""What a machine is asked about itself."""

from __future__ import annotations

import pytest
import torch

from fps_pretrain.models import hardware
from fps_pretrain.models.hardware import gpu_of


@pytest.mark.parametrize(
    ("visible", "count", "found"),
    [
        (None, 0, [None, None, None]),
        (None, 1, [None, None, None]),
        (None, 3, ["0", "1", "2"]),
        ("4,GPU-12ab", 2, ["4", "GPU-12ab", "4"]),  # as the job's own scheduler names them
        ("3,5,-1,2", 2, ["3", "5", "3"]),  # CUDA sees none behind a name that is none
    ],
)
def test_processes_take_turns_on_the_gpus_they_may_use(monkeypatch, visible, count, found):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu_of(number).get("CUDA_VISIBLE_DEVICES") for number in range(3)] == found


@pytest.mark.parametrize(("mine", "task", "found"), [(32, "", 8), (32, "8", 8), (8, "8", 8), (3, "", 1)])
def test_cores_that_slurm_has_bound_to_a_task_are_not_divided_again(monkeypatch, mine, task, found):
    monkeypatch.setattr(hardware, "cores", lambda: mine)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", task)
    assert hardware.cores_of_a_process(4) == found

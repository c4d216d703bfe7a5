"""What a machine is asked about itself."""

from __future__ import annotations

import sys

import pytest
import torch

from fps_pretrain.common.errors import UserError
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


@pytest.mark.parametrize(
    ("capabilities", "found"),
    [({"avx512": True}, "32"), ({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True, "avx512_bf16": False}, "bf16")],
)
def test_a_cpu_computes_in_what_it_multiplies(monkeypatch, capabilities, found):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert hardware.native_precision(gpu=False) == found


@pytest.mark.parametrize("supported", [True, False])
def test_a_gpu_that_would_only_emulate_bfloat16_computes_in_32_bits(monkeypatch, supported):
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or supported
    )
    assert hardware.native_precision(gpu=True) == ("bf16" if supported else "32")


def test_threads_are_given_back_also_after_an_error():
    before = torch.get_num_threads()
    with hardware.cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        with hardware.cpu_threads(None):
            assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError), hardware.cpu_threads(before + 2):
        1 / 0  # noqa: B018
    assert torch.get_num_threads() == before


def test_the_compiler_is_the_one_that_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler \(g\+\+ or clang\+\+\)"):
        hardware.check_compiler(gpu=False)
    monkeypatch.setenv("CXX", sys.executable)
    hardware.check_compiler(gpu=False)
    (tmp_path / "g++").symlink_to(sys.executable)
    monkeypatch.setenv("CXX", "icpx")
    with pytest.raises(UserError, match=r"compiler \(icpx\)"):
        hardware.check_compiler(gpu=False)
    monkeypatch.delenv("CXX")
    hardware.check_compiler(gpu=False)

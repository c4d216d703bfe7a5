"""Canaries: one test for each private part of a library that this project uses, to name what an update has broken.

When one fails after an update, mend the file named in its message, then raise the cap in pyproject.toml.
"""

import importlib.metadata
import inspect
import tomllib

import numba
import numpy as np
import pytest
import torch
from packaging.requirements import Requirement

from tests.conftest import REPOSITORY


@pytest.mark.parametrize("name", ["flwr", "lightly", "numba"])
def test_no_release_is_installed_that_these_tests_have_not_seen(name):
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *(text for part in project["optional-dependencies"].values() for text in part)]
    wanted = [Requirement(text) for text in texts if Requirement(text).name == name]
    assert wanted
    for requirement in wanted:
        assert any(part.operator == "<" for part in requirement.specifier), f"{requirement} has no cap"
        assert importlib.metadata.version(name) in requirement.specifier


def test_flowers_messages_say_who_sends_them_by_a_task_identity():
    """federated/engines/inprocess.py sets it, so that messages can be made without a SuperLink."""
    from flwr.app import Message, RecordDict
    from flwr.supercore.run import Run
    from flwr.supercore.task_identity import TaskIdentity

    names = ("run_id", "task_id", "node_id")
    before = {name: vars(TaskIdentity).get(name) for name in names}
    try:
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 7, 1, 3
        metadata = Message(RecordDict(), 5, "train").metadata
        assert (metadata.run_id, metadata.src_node_id, metadata.dst_node_id) == (7, 3, 5), "TaskIdentity is not read"
        assert Run.create_empty(7).run_id == 7, "Run.create_empty has changed"
    finally:
        for name, value in before.items():
            setattr(TaskIdentity, name, value)


def test_flowers_messages_take_an_id_and_their_replies_refer_to_it():
    """federated/engines/inprocess.py gives messages their ids, which Flower's grids do elsewhere."""
    from flwr.app import Message, RecordDict
    from flwr.supercore.task_identity import TaskIdentity

    names = ("run_id", "task_id", "node_id")
    before = {name: vars(TaskIdentity).get(name) for name in names}
    try:
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 7, 1, 3
        message = Message(RecordDict(), 5, "train")
        message.metadata.__dict__["_message_id"] = "abc"
        assert message.metadata.message_id == "abc", "Metadata keeps its id elsewhere than in _message_id"
        reply = Message(RecordDict(), reply_to=message)
        assert reply.metadata.reply_to_message_id == "abc", "replies refer to another id"
    finally:
        for name, value in before.items():
            setattr(TaskIdentity, name, value)


def test_flowers_records_hold_arrays_in_data_and_arrays_their_fields_in_their_dictionary():
    """federated/messages.py fills both without Flower's checks of each item."""
    from flwr.app import Array, ArrayRecord

    array = Array(np.ones(2))
    assert {"dtype", "shape", "stype", "data"} <= vars(array).keys(), "an Array keeps its fields elsewhere"
    assert vars(ArrayRecord({"a": array}))["_data"]["a"].data == array.data, "a record keeps its arrays elsewhere"


def test_numbas_cache_folder_is_read_when_a_function_is_decorated(tmp_path):
    """fps_pretrain/fractals/compiled.py sets it around the decorator, so that old machine code is never taken."""
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(tmp_path)
    try:
        from tests.tools import numba_sample

        function = numba.njit(cache=True)(numba_sample.double)
    finally:
        numba.config.CACHE_DIR = before
    assert function(2) == 4
    assert list(tmp_path.rglob("*.nbi")), "numba has kept its machine code elsewhere than in config.CACHE_DIR"


def test_numba_counts_no_references_when_told_so():
    """fps_pretrain/fractals/compiled.py compiles kernels with ``_nrt=False``, which saves a sixth of their time."""
    from tests.tools import numba_sample

    counted, plain = numba.njit(numba_sample.row_sums), numba.njit(_nrt=False)(numba_sample.row_sums)
    for function in (counted, plain):
        function(numba_sample.TABLE, numba_sample.OUT)
    signature = plain.signatures[0]
    assert "NRT_incref" in counted.inspect_llvm(counted.signatures[0]), "this sample shows nothing any more"
    assert "NRT_incref" not in plain.inspect_llvm(signature), "_nrt=False has no effect"


def test_lightlys_memory_bank_replaces_its_oldest_rows():
    """fps_pretrain/methods/moco.py keeps ``bank`` and ``bank_ptr`` as persistent buffers and enqueues by itself."""
    from fps_pretrain.methods.moco import KeyQueue

    queue = KeyQueue(6, 3)
    assert {"bank", "bank_ptr"} <= queue.state_dict().keys(), "the bank is no buffer"
    assert tuple(queue.bank.shape) == (6, 3), "the bank's layout has changed"
    before = queue.bank.clone()
    queue.enqueue(torch.ones(2, 3))
    assert torch.equal(queue.bank[:2], torch.ones(2, 3)), "_dequeue_and_enqueue does not write at bank_ptr"
    assert torch.equal(queue.bank[2:], before[2:])
    assert int(queue.bank_ptr) == 2, "bank_ptr is not the place of the oldest row"


def test_lightning_trains_in_a_process_group_that_it_finds():
    """fps_pretrain/training/launch.py joins the group before Lightning does."""
    from lightning_fabric.utilities.distributed import _init_dist_connection

    source = inspect.getsource(_init_dist_connection)
    assert "torch.distributed.is_initialized()" in source, "Lightning would initialise the process group again"


def test_processes_that_lightning_starts_inherit_the_environment(monkeypatch):
    """fps_pretrain/training/launch.py tells them in a variable how the run begins."""
    from pytorch_lightning.plugins.environments import LightningEnvironment
    from pytorch_lightning.strategies.launchers import subprocess_script

    started = []
    monkeypatch.setattr(subprocess_script.subprocess, "Popen", lambda command, env, cwd: started.append(env))
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):  # restored afterwards
        monkeypatch.setenv(name, "0")
        monkeypatch.delenv(name)
    monkeypatch.setenv("TOLD", "a")
    launcher = subprocess_script._SubprocessScriptLauncher(LightningEnvironment(), num_processes=2, num_nodes=1)
    launcher._call_children_scripts()
    assert [(env["LOCAL_RANK"], env.get("TOLD")) for env in started] == [("1", "a")], "children get another environment"

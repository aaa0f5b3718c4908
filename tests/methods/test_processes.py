"""Training on several processes and hosts is training on one, with the same batches of all."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fieldmark.methods.bap.training import CompositeBatches
from fieldmark.methods.processes import Processes
from tests.methods.bap_material import CONFIG, open_compositor

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def find_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.mark.slow
def test_two_hosts_train_as_one_process(tmp_path):
    """Each host is a torchrun agent of its own on 127.0.0.1, with one process and one thread."""
    open_compositor(tmp_path)
    program = ["-m", "tests.methods.bap_program", str(tmp_path)]
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *program, "one"], check=True, cwd=ROOT, env=settings)
    agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
    agent += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{find_port()}", "--rdzv-id=t"]
    agent += ["--local-addr=127.0.0.1"]
    with (tmp_path / "log").open("w") as log:
        hosts = [
            subprocess.Popen(
                [*agent, *program, "two"], cwd=ROOT, env=settings, stdout=log, stderr=log
            )
            for _ in range(2)
        ]
        codes = [host.wait(timeout=300) for host in hosts]
    assert codes == [0, 0], (tmp_path / "log").read_text()
    one, two = (load_file(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=1e-5, rtol=1e-5)


def interleave(parts):
    """Put what each of some processes drew back in the order of the whole step."""
    whole = torch.empty(sum(map(len, parts)), *parts[0].shape[1:], dtype=parts[0].dtype)
    for rank, part in enumerate(parts):
        whole[rank :: len(parts)] = part
    return whole


@pytest.mark.parametrize("world", [2, 3])
def test_the_parts_of_all_processes_are_the_step_of_one(world, tmp_path):
    compositor = open_compositor(tmp_path, objects=7)

    def draw(step, processes):
        batches = CompositeBatches(compositor, config=CONFIG, seed=3)
        return batches.draw(step, processes=processes, device=CPU)

    steps = CompositeBatches(compositor, config=CONFIG, seed=3).steps_an_epoch
    for step in range(steps + 1):
        whole = draw(step, Processes())
        parts = [draw(step, Processes(rank=rank, world=world)) for rank in range(world)]
        assert {part.total for part in parts} == {whole.total} == {len(whole.image)}
        assert torch.equal(interleave([part.image for part in parts]), whole.image)
        assert torch.equal(interleave([part.target for part in parts]), whole.target)

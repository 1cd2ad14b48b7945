"""Two processes equal one. The file is its own worker: `python test_train_distributed.py OUT`, as two ranks or one."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from sample_networks import COLOURS, labelled_images, small_body
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from edge.errors import EdgeError
from edge.photo.preprocess import Preprocess
from train import checkpoint
from train.config import TrainConfig
from train.loop.distributed import SharedBatchNorm2d, gather, share_batch_norm, start
from train.loop.loop import Session, TrainingData

ROOT = Path(__file__).parents[1]
SHARES = (7, 5)  # of every batch of 12, unequal on purpose
NUM_STEPS = 3


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 6, 3, stride=2), nn.BatchNorm2d(6, momentum=None)

    def forward(self, x):
        x = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(x))).mean((2, 3))


def share_of(x, ranks):
    """This rank's rows of a global batch."""
    return x if ranks.size == 1 else x.split(SHARES)[ranks.rank]


def global_loss(embeddings, logits, labels):
    distance = torch.cdist(embeddings, embeddings)
    same = labels[:, None] == labels
    triplet = functional.relu(distance.where(same, 0).amax(1) - distance.where(~same, torch.inf).amin(1) + 0.3).mean()
    return triplet + functional.cross_entropy(logits, labels, weight=torch.tensor([1.0, 3.0, 0.2]).double())


def train(ranks):
    """Three steps of SGD on batches that every rank knows; the state of body and head."""
    torch.manual_seed(0)
    body, head = Body().double(), nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3, bias=False)).double()
    model = share_batch_norm(body)
    if ranks.size > 1:
        model = DistributedDataParallel(body)
        model.broadcast_buffers = False
    optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1, momentum=0.9)
    data = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(NUM_STEPS):
        images = torch.randn(sum(SHARES), 3, 9, 9, generator=data, dtype=torch.float64) + 2
        labels = torch.randint(3, (sum(SHARES),), generator=data)
        embeddings = gather(model(share_of(images, ranks)))
        loss = global_loss(embeddings, head(embeddings), gather(share_of(labels, ranks)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {"body": body.state_dict(), "head": head.state_dict(), "losses": losses}


def apply_norms(ranks):
    """Outputs, input gradients and buffers of single BatchNorms; the loss of a row depends on its rank."""
    found = {}
    for name, norm, shape in (
        ("plain", nn.BatchNorm2d(4), (12, 4, 3, 5)),
        ("cumulative", nn.BatchNorm1d(4, momentum=None), (12, 4)),
        ("sequence", nn.BatchNorm1d(4, affine=False), (12, 4, 3)),
        ("untracked", nn.BatchNorm2d(4, track_running_stats=False), (12, 4, 2, 2)),
    ):
        norm = share_batch_norm(norm.double())
        data = torch.Generator().manual_seed(2)
        for _ in range(2):
            x = torch.randn(shape, generator=data, dtype=torch.float64) * 3 + 100
            weight = torch.randn(shape, generator=data, dtype=torch.float64)
            local = share_of(x, ranks).clone().requires_grad_()
            out = norm(local)
            (out * share_of(weight, ranks)).sum().backward()
        found[name] = {"out": gather(out.detach()), "grad": gather(local.grad), **norm.state_dict()}
    half = share_batch_norm(nn.BatchNorm1d(4))(share_of(x[:, :, 0, 0], ranks).bfloat16())
    assert half.dtype == torch.bfloat16
    return {**found, "half": {"out": gather(half.detach().float())}}


def gather_rows(ranks):
    x = torch.arange(24.0).view(12, 2)
    local = share_of(x, ranks).clone().requires_grad_()
    rows = gather(local)
    rows.pow(2).sum().mul(ranks.rank + 1).backward()  # the sum of both ranks' losses is three times the one of rank 0
    return {"rows": rows.detach(), "grad": gather(local.grad), "labels": gather(share_of(torch.arange(12), ranks))}


def evaluate(ranks):
    """In evaluation mode, ranks with different rows do not meet: only the first computes, and would wait for ever."""
    model = share_batch_norm(Body().double()).eval()
    if not ranks.is_first:
        return None
    plain = Body().double().eval()
    plain.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    return torch.equal(plain(x), model(x))


@mock.patch("train.networks.network.MobileNetV3Small", small_body)
def run_engine(ranks):
    """Three steps of the trainer itself, with everything that must be shared, in float64."""
    names = {"p_noise": 0.5, "p_cutout": 0.5, "p_perspective": 0.5}  # chance that every rank must draw alike
    config = TrainConfig().changed(
        network="mobilenet_v3_small", sizes_px=(32,), epochs=1, batch_size=12, steps_per_epoch=NUM_STEPS,
        head="cosine", neck=True, dropout=0.2, margin_type="curricular", triplet_weight=0.5, optimizer="sgd", lr=0.05,
        group_weights=True, ema_decay=0.9, bn_batches=1, **names,
        class_weights=tuple(f"{name}:{weight}" for weight, name in enumerate(COLOURS, 1)),
    )
    images, labels = labelled_images(24, 36)
    data = TrainingData({32: images}, labels, np.arange(24) % 2, [str(i) for i in range(24)])
    origin = {"data_name": "", "clusters": [], "pictures": [], "sources": {}, "folds_sha256": None}
    origin |= {"hold_out": None, "commit": ""}
    torch.set_default_dtype(torch.float64)
    try:
        preprocess = Preprocess(size_px=32).to_json()
        state = checkpoint.start(config, classes=list(COLOURS), recipe="", preprocess=preprocess, **origin)
        run = Session(state, data, ranks)
        with contextlib.closing(run.batches(0, 32)) as batches:
            losses = [run.take(batch)["total"] for batch in batches]
        run.finish()
        found = run.checkpoint()
    finally:
        torch.set_default_dtype(torch.float32)
    return {"losses": losses, "model": found.model, "ema": found.ema, "t": found.objective, "result": found.result}


def everything(ranks):
    return {
        "train": train(ranks),
        "norms": apply_norms(ranks),
        "gather": gather_rows(ranks),
        "evaluate": evaluate(ranks),
        "engine": run_engine(ranks),
        "ranks": (ranks.rank, ranks.size, ranks.device.type, ranks.is_first),
    }


def environment(**values):
    fixed = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    return {**{name: value for name, value in os.environ.items() if name != "WORLD_SIZE"}, **fixed, **values}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two processes found, in the environment that torchrun sets but without its start-up."""
    out = tmp_path_factory.mktemp("ranks")
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    worker = subprocess.Popen(
        [sys.executable, "-W", "error::FutureWarning", __file__, str(out)],
        env=environment(**shared),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said = worker.communicate(timeout=120)[1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
    assert worker.returncode == 0, said
    return [torch.load(out / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def one():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WORLD_SIZE", raising=False)
        patch.setattr(torch.cuda, "is_available", lambda: False)
        with start() as ranks:
            return everything(ranks)


def test_ranks(one, two):
    assert one["ranks"] == (0, 1, "cpu", True)
    assert [found["ranks"] for found in two] == [(0, 2, "cpu", True), (1, 2, "cpu", False)]


def test_training_equals_one_process(one, two):
    for found in two:
        torch.testing.assert_close(found["train"], one["train"], rtol=1e-6, atol=1e-12)


def test_the_trainer_equals_one_process(one, two):
    assert len(one["engine"]["losses"]) == NUM_STEPS
    for found in two:
        torch.testing.assert_close(found["engine"], one["engine"], rtol=1e-6, atol=1e-9)


def test_ranks_stay_equal_bit_for_bit(two):
    torch.testing.assert_close(two[0]["train"], two[1]["train"], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["plain", "cumulative", "sequence", "untracked"])
def test_batch_norm_equals_one_process(one, two, name):
    for found in two:
        torch.testing.assert_close(found["norms"][name], one["norms"][name], rtol=1e-9, atol=1e-9)


def test_batch_norm_of_16_bits(one, two):
    torch.testing.assert_close(two[0]["norms"]["half"], one["norms"]["half"], rtol=0.01, atol=0.01)


def test_gather_in_rank_order_with_its_gradient(two):
    x = torch.arange(24.0).view(12, 2)
    for found in two:
        assert torch.equal(found["gather"]["rows"], x)
        assert torch.equal(found["gather"]["grad"], 3 * 2 * x)
        assert torch.equal(found["gather"]["labels"], torch.arange(12))


def test_evaluation_is_plain(two):
    assert two[0]["evaluate"] is True


def test_sharing_keeps_modules_and_names():
    body = Body()
    before, norm, weight = list(body.state_dict()), body.norm1, body.norm1.weight
    assert share_batch_norm(share_batch_norm(body)) is body
    assert list(body.state_dict()) == before
    assert body.norm1 is norm and body.norm1.weight is weight and type(norm) is SharedBatchNorm2d


def test_sharing_refuses_other_batch_norms():
    with pytest.raises(ValueError, match="1: got a BatchNorm3d, expected BatchNorm1d or BatchNorm2d"):
        share_batch_norm(nn.Sequential(nn.ReLU(), nn.BatchNorm3d(2)))


@pytest.mark.slow
def test_torchrun(one, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*launcher, __file__, str(tmp_path)], env=environment(), cwd=ROOT, timeout=180, check=True)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found["train"], one["train"], rtol=1e-6, atol=1e-12)


def test_half_an_environment(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(EdgeError, match="without RANK, LOCAL_RANK, MASTER_ADDR:") as caught, start():
        pass
    assert caught.value.exit_status == 5


def join_environment(monkeypatch, **values):
    names = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in {**names, **values}.items():
        monkeypatch.setenv(name, value)


def test_no_rank(monkeypatch):
    join_environment(monkeypatch, RANK="first")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EdgeError, match="cannot join the other processes: .*first") as caught, start():
        pass
    assert "\n" not in str(caught.value)


def test_more_processes_than_gpus(monkeypatch):
    join_environment(monkeypatch, LOCAL_RANK="2", RANK="2", WORLD_SIZE="3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(EdgeError, match="process 3 for 2 GPUs, expected --nproc-per-node 2"), start():
        pass


if __name__ == "__main__":
    child = None
    if "RANK" not in os.environ:  # not torchrun's: both ranks begin here, after one import of PyTorch
        child = os.fork()
        os.environ["RANK"] = os.environ["LOCAL_RANK"] = "0" if child else "1"
    with start() as ranks:
        torch.save(everything(ranks), Path(sys.argv[1]) / f"{ranks.rank}.pt")
    if child:
        sys.exit(os.waitpid(child, 0)[1] != 0)

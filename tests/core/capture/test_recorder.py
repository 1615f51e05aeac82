"""`CudaGraphs` without a GPU: fakes in the place of torch.cuda note what is asked of them, and in which order."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from loops import M, N, data, orders, twins
from tape import Tape

import skipback as sb
from skipback import update
from skipback.engine.capture import recorder
from skipback.engine.capture.steps import WARM_UP


class Cuda:
    """What `CudaGraphs` uses of torch.cuda."""

    def __init__(self):
        self.log, self.now = [], "main"
        self.Stream = lambda device: self.log.append(("stream", str(device))) or Stream(self, "side")
        self.CUDAGraph = lambda: Graph(self)

    def current_stream(self, device):
        return Stream(self, self.now)

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.now = self.now, stream.name
        yield
        self.now = before

    @contextlib.contextmanager
    def graph(self, graph, stream):
        assert self.now == "main"
        with self.stream(stream):
            yield


class Stream:
    def __init__(self, cuda, name):
        self.cuda, self.name = cuda, name

    def wait_stream(self, other):
        self.cuda.log.append((self.name, "waits for", other.name))


class Graph:
    def __init__(self, cuda):
        self.cuda = cuda

    def replay(self):
        self.cuda.log.append(("replay", self.cuda.now))


@pytest.fixture
def cuda(monkeypatch):
    fake = Cuda()
    for name in ("Stream", "current_stream", "stream", "CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    return fake


def test_warm_up_and_recording_run_on_the_side_stream_and_replays_on_the_own(cuda):
    graphs = recorder.CudaGraphs(torch.device("cuda", 0))
    where = []
    graphs.warm(lambda: where.append(cuda.now))
    assert cuda.log == [("stream", "cuda:0"), ("side", "waits for", "main"), ("main", "waits for", "side")]
    replay = graphs.record(lambda: where.append(cuda.now))
    replay()
    replay()
    assert where == ["side", "side"]  # a replay runs no Python
    assert cuda.log[3:] == [("replay", "main")] * 2


def test_an_epoch_asks_for_a_warm_up_one_recording_and_a_replay_for_each_full_batch(cuda):
    learner = twins(sb.drtp())[0]
    graphs = recorder.CudaGraphs(torch.device("cuda", 0))
    steps = sb.captured(learner, *data(), batch=N, loss=F.cross_entropy, update=update.adam(), recorder=graphs)
    for order in orders():
        steps.epoch(order)
    assert cuda.log.count(("side", "waits for", "main")) == WARM_UP
    assert cuda.log.count(("replay", "main")) == M // N * len(orders()) - WARM_UP


def test_on_cuda_graphs_are_taken_and_elsewhere_nothing(cuda, monkeypatch):
    made = []
    monkeypatch.setattr("skipback.engine.capture.captured.CudaGraphs", lambda device: made.append(device) or Tape())
    kinds = {"batch": N, "loss": F.cross_entropy, "update": update.adam()}
    assert sb.captured(twins(sb.dfa())[0], *data(), **kinds).recorder is None
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda self: True))
    assert isinstance(sb.captured(twins(sb.dfa())[0], *data(), **kinds).recorder, Tape)
    assert len(made) == 1

"""The library where nothing but torch is installed. A script: `python lean.py FOLDER` prints what it has trained.

Whatever the lab and the tests need beside torch cannot be imported here, so it says what an install without the extra
can do: every module outside the lab, every public name, every method, and two ranks.
"""

import importlib
import inspect
import pkgutil
import sys
from pathlib import Path

from skipback import lab

BLOCKED = {*lab.NEEDS.values(), "scipy", "sklearn", "pytest", "hypothesis"}


class Without:
    """A finder that does not find them, as where they are not installed: torch asks for some, and goes on without."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in BLOCKED else self.finder.find_spec(name, path, target)


sys.meta_path[:] = map(Without, sys.meta_path)  # also in the ranks, which import this file

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.multiprocessing as mp  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

import skipback as sb  # noqa: E402

torch.set_num_threads(1)

N, C = 8, 3


def public():
    """Every module but the lab's, and every public name."""
    for module in pkgutil.walk_packages(sb.__path__, "skipback."):
        if module.name.startswith("skipback.lab") or module.name == "skipback.__main__":
            continue
        importlib.import_module(module.name)
    for name in sb.__all__:
        getattr(sb, name)


def method_of(name):
    """The method of a page."""
    constructor = getattr(sb, name)
    return constructor(**({"memory": N} if "memory" in inspect.signature(constructor).parameters else {}))


def network():
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, C))


def batch():
    return torch.randn(N, 6), torch.randint(C, (N,)), torch.arange(N)


def train(name):
    """The loop, a step, the alignment and the audit. Weights that are taught have moved, and are finite."""
    net, (x, t, ids) = network(), batch()
    learner = sb.attach(net, method_of(name), example=x, show=None)
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-2)
    before = [p.detach().clone() for p in net.parameters()]
    for _ in range(3):  # feedback that learns may start at zero, and teaches from the second step on
        F.cross_entropy(learner(x, target=t, ids=ids), t).backward()
        optimizer.step()
        optimizer.zero_grad()
    learner.step(x, t, loss=F.cross_entropy, update=sb.update.adam(lr=1e-2), ids=ids)
    moved = [not torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True)]
    assert all(moved[-2:] if name == "shallow" else moved), f"{name}: {moved}"
    assert all(p.isfinite().all() for p in net.parameters())
    found = sb.alignment(learner, x, t, F.cross_entropy, ids=ids)
    assert all(-1.001 <= one.cosine <= 1.001 for one in found)
    assert len(sb.audit(learner, x, t, F.cross_entropy, ids)) == 3


def rank(rank, folder):
    """One of two ranks, which train the blocks of one network and hand each other weights and optimizer state."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(0)
    net, (x, t, ids) = network(), batch()
    stage = sb.stages(sb.attach(net, sb.f3(memory=N), x, show=None))
    update = sb.update.adam(lr=1e-2)
    stage.epoch([(x, t, ids)], loss=F.cross_entropy, update=update)
    stage.gather()
    state = {str(k): value for k, value in update.optimizer.state_dict()["state"].items()}
    torch.save({"net": net.state_dict(), "optimizer": state}, Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


def main(folder):
    torch.manual_seed(0)
    public()
    for name in sb.methods.TABLE:
        train(name)
    mp.spawn(rank, (folder,), nprocs=2)
    first, second = (torch.load(Path(folder) / f"rank{k}.pt") for k in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert len(first["optimizer"]) == 6
    assert not BLOCKED & set(sys.modules)
    print("trained:", *sb.methods.TABLE)


if __name__ == "__main__":
    main(sys.argv[1])

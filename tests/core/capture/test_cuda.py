"""On a GPU: epochs from CUDA graphs are loops of `learner.step`, and no step waits for the device."""

import nets
import pytest
import torch
import torch.nn.functional as F
from loops import M, N, data, different, loop, orders, state
from test_captured import METHODS, UPDATES

import skipback as sb

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("kind", UPDATES)
@pytest.mark.parametrize("name", [name for name in METHODS if name != "fdfa"])
def test_an_epoch_from_graphs_is_a_loop_of_steps(name, kind):
    rows = [part.cuda() for part in data()]
    made = [nets.made(nets.mlp, dtype=torch.float32).cuda() for _ in range(2)]
    one, other = (sb.attach(net, METHODS[name](), rows[0][:2], show=None) for net in made)
    ours, theirs = UPDATES[kind](), UPDATES[kind]()
    steps = sb.captured(one, *rows, batch=N, loss=F.cross_entropy, update=ours)
    for order in orders():
        mean = steps.epoch(order)
        torch.testing.assert_close(mean, loop(other, theirs, rows, order.cuda()), check_device=False)
    assert steps.why is None
    a, b = state(one, ours), state(other, theirs)
    for key in different(a, b):  # products may be summed in another order in a graph
        torch.testing.assert_close(a[key], b[key])


def test_a_whole_epoch_of_replays_does_not_wait_for_the_device():
    rows = [part.cuda() for part in data()]
    learner = sb.attach(nets.made(nets.mlp, dtype=torch.float32).cuda(), sb.f3(memory=M), rows[0][:2], show=None)
    steps = sb.captured(learner, *rows, batch=N, loss=F.cross_entropy, update=sb.update.adam())
    for order in orders():
        steps.epoch(order)
    torch.cuda.set_sync_debug_mode("error")
    try:
        steps.epoch(orders()[0].pin_memory())
    finally:
        torch.cuda.set_sync_debug_mode("default")

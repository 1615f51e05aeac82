"""Anchored methods: plain backprop in every k-th training pass, counted."""

import nets
import pytest
import torch
import torch.nn.functional as F
from nets import batch, difference, gradients, made, same, teach

import skipback as sb


def passes(learner, count, *, train=True):
    """The gradients of some passes, the weights at rest."""
    x, t, ids = batch()
    learner.train(train)
    found = []
    for _ in range(count):
        learner.zero_grad()
        teach(learner, x, t, ids)
        found.append(gradients(learner.net))
    return found


@pytest.mark.parametrize("method", [sb.dfa(), sb.fa(), sb.dkp(), sb.drtp(), sb.shallow(), sb.fg_w()])
def test_every_third_pass_is_backprop(method):
    x, _, _ = batch()
    learner = sb.attach(made(nets.mlp), sb.anchored(method, every=3), x, show=None)
    (exact,) = passes(sb.attach(made(nets.mlp), sb.bp(), x, show=None), 1)
    found = passes(learner, 7)
    assert [difference(one, exact) < 1e-12 for one in found] == [False, False, True, False, False, True, False]
    assert learner.backprop_share == pytest.approx(2 / 7)


def test_passes_that_do_not_train_do_not_count():
    x, t, _ = batch()
    learner = sb.attach(made(nets.mlp), sb.anchored(sb.dfa(), every=2), x, show=None)
    passes(learner, 3, train=False)
    with learner.exact():
        passes(learner, 3)
    with torch.no_grad():
        learner(x)
    sb.alignment(learner, x, t, F.cross_entropy)
    sb.gradient_alignment(learner, x, t, F.cross_entropy)
    learner.train()
    sb.audit(learner, x, t, F.cross_entropy)
    assert learner.backprop_share == 0
    plain = sb.attach(made(nets.mlp), sb.dfa(), x, show=None)
    assert same(*(passes(one, 1)[0] for one in (learner, plain)))
    assert learner.route.count == 1


def test_a_resumed_run_goes_on_where_it_was():
    x, _, _ = batch()
    first, second = (sb.attach(made(nets.mlp), sb.anchored(sb.dfa(), every=3), x, show=None) for _ in range(2))
    passes(first, 2)
    passes(second, 1)  # what it has counted itself is forgotten
    second.load_state_dict(first.state_dict())
    (a,), (b,) = passes(first, 1), passes(second, 1)
    assert same(a, b)
    assert second.backprop_share == first.backprop_share == pytest.approx(1 / 3)


def test_the_memory_sees_every_visit():
    """A delayed error is that of the last visit, also if that one was plain backprop."""
    x, t, ids = batch()
    learner = sb.attach(made(nets.mlp), sb.anchored(sb.f3(memory=8), every=1), x, show=None)
    y = teach(learner, x, t, ids)
    torch.testing.assert_close(learner.memory.rows, (torch.softmax(y, 1) - F.one_hot(t, nets.C)).float())
    assert learner.memory.seen.all()


def test_shares_of_other_methods():
    x, _, _ = batch()
    assert sb.attach(made(nets.mlp), sb.bp(), x, show=None).backprop_share == 1
    assert sb.attach(made(nets.mlp), sb.dfa(), x, show=None).backprop_share == 0


def test_learned_feedback_still_needs_an_example():
    with pytest.raises(ValueError, match="pass example=x"):
        sb.attach(made(nets.mlp), sb.anchored(sb.grape(), every=5), show=None)


def test_a_record_that_prints():
    assert sb.anchored(sb.dfa(), every=5).paper == sb.dfa().paper
    with pytest.raises(ValueError, match=r"every must be 1 .* or more, got 0"):
        sb.anchored(sb.dfa(), every=0)


def test_compiling_is_refused():
    x, _, _ = batch()
    learner = sb.attach(made(nets.mlp), sb.anchored(sb.dfa(), every=2), x, show=None)
    with pytest.raises(Exception, match="compile the method without its anchor"):
        torch.compile(learner, fullgraph=True, backend="eager")(x)


def test_the_pass_that_finds_the_blocks_is_anchored_too():
    x, _, _ = batch()
    (exact,) = passes(sb.attach(made(nets.mlp), sb.bp(), x, show=None), 1)
    learner = sb.attach(made(nets.mlp), sb.anchored(sb.dfa(), every=1), show=None)
    assert difference(*passes(learner, 1), exact) < 1e-12
    assert learner.backprop_share == 1


def test_a_look_is_at_the_method_and_not_at_the_anchor():
    """A measure that trains sees what is sent between, also where the next pass would be backprop."""
    x, t, _ = batch()
    found = []
    for method in (sb.anchored(sb.dfa(), every=1), sb.dfa()):
        learner = sb.attach(made(nets.mlp), method, x, show=None)
        found.append(sb.audit(learner, x, t, F.cross_entropy))
    assert found[0] == found[1]

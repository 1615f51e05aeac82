"""The contract: what holds for every method on every network."""

import copy
import io

import nets
import pytest
import torch
import torch.nn.functional as F
from nets import batch, difference, gradients, logits, made, same, teach

import skipback as sb
from skipback.core.feedback import Sees
from skipback.core.method import Direct, Exact, HeadOnly
from skipback.methods import fwm
from skipback.routes.layerwise import Layerwise
from skipback.routes.perturbed import Perturbed


def attached(method, case, *, seed=0, dtype=torch.float64, n=8):
    """A learner that knows its blocks, and a batch."""
    x, t, ids = batch(case.shape, n, dtype=dtype)
    return sb.attach(made(case.build, dtype=dtype), method, x, seed=seed, show=None), x, t, ids


def fresh(learner):
    """No gradients, and the random state of dropout at a known place."""
    learner.zero_grad()
    torch.manual_seed(5)


def step(learner, x, t, ids):
    """One plain gradient step."""
    fresh(learner)
    teach(learner, x, t, ids)
    with torch.no_grad():
        for p in learner.parameters():
            if p.grad is not None:
                p -= 0.1 * p.grad


# ---------------------------------------------------------------------------------------------- what is taught


def test_every_parameter_has_a_finite_gradient_or_is_frozen(method, case):
    learner, x, t, ids = attached(method, case)
    teach(learner, x, t, ids)
    for name, gradient in gradients(learner.net).items():
        assert (gradient is None) == (name in learner.frozen), name
        assert gradient is None or gradient.isfinite().all(), name


def test_only_shallow_freezes_and_it_freezes_all_but_the_head(method, case):
    learner, *_ = attached(method, case)
    if not isinstance(method, HeadOnly):
        assert learner.frozen == []
        return
    head = {id(p) for p in learner.layout.segments[-1].parameters}
    assert learner.frozen == [name for name, p in learner.net.named_parameters() if id(p) not in head]


def test_hidden_blocks_move(direct, case):
    """The trap of peers: the loss falls, and hidden weights never change."""
    learner, x, t, ids = attached(direct, case)
    assert len(learner.direct.ports) >= 2
    before = {name: p.detach().clone() for name, p in learner.net.named_parameters()}
    step(learner, x, t, ids)
    still = {name for name, p in learner.net.named_parameters() if torch.equal(before[name], p)}
    assert still <= case.dead


def test_same_seed_same_bits(method, case):
    results = []
    for _ in range(2):
        learner, x, t, ids = attached(method, case)
        fresh(learner)
        y = teach(learner, x, t, ids)
        results.append({"output": y, **gradients(learner.net), **learner.feedback})
    assert same(*results)


def test_another_seed_draws_other_feedback(direct):
    if isinstance(direct.feedback, fwm.Matched):
        pytest.skip("feedback from the weights of the network")
    first, *_ = attached(direct, nets.CASES["mlp"], seed=0)
    second, *_ = attached(direct, nets.CASES["mlp"], seed=1)
    for block, B in first.feedback.items():
        assert not torch.equal(B, second.feedback[block])


# ------------------------------------------------------------------------------------------------------- copies


def test_state_dict_round_trip(method, case):
    """Into a learner with other weights and other feedback: the same next step, to the bit."""
    learner, x, t, ids = attached(method, case)
    step(learner, x, t, ids)
    saved = io.BytesIO()
    torch.save(learner.state_dict(), saved)
    saved.seek(0)

    other = sb.attach(made(case.build, seed=9), method, x, seed=9, show=None)
    other.load_state_dict(torch.load(saved, weights_only=True))
    assert same(learner.state_dict(), other.state_dict())
    for one in (learner, other):
        step(one, x, t, ids)
    assert same(gradients(learner.net), gradients(other.net))
    assert same(learner.state_dict(), other.state_dict())


def test_deepcopy_of_the_learner_after_a_forward(method, case):
    learner, x, t, ids = attached(method, case)
    learner(x, target=t, ids=ids)
    other = copy.deepcopy(learner)
    results = []
    for one in (learner, other):
        fresh(one)
        teach(one, x, t, ids)
        results.append(gradients(one.net))
    assert same(*results)
    theirs = {value.data_ptr() for value in other.state_dict().values()}
    assert all(value.data_ptr() not in theirs for value in learner.state_dict().values())

    before = {name: value.clone() for name, value in learner.state_dict().items()}
    step(other, x, t, ids)
    assert same(before, learner.state_dict())


def test_deepcopy_of_the_network_after_a_forward(method, case):
    learner, x, t, ids = attached(method, case)
    learner(x, target=t, ids=ids)
    net = copy.deepcopy(learner.net)
    other = net.forward.learner  # a network carries its learner along
    assert other is not learner
    assert other.net is net
    results = []
    for one in (learner, other):
        fresh(one)
        with one.given(target=t, ids=ids):
            y = logits(one.net(x))
        F.cross_entropy(y, t).backward()
        results.append(gradients(one.net))
    assert same(*results)


def test_pickle_of_the_learner(method):
    learner, x, t, ids = attached(method, nets.CASES["mlp"])
    teach(learner, x, t, ids)
    saved = io.BytesIO()
    torch.save(learner, saved)
    saved.seek(0)
    other = torch.load(saved, weights_only=False)
    assert same(learner.state_dict(), other.state_dict())
    for one in (learner, other):
        step(one, x, t, ids)
    assert same(gradients(learner.net), gradients(other.net))


# ------------------------------------------------------------------------------------------- the loop users have


def halves_add_up(method, scale):
    """How far the gradients of two halves, each with loss/2, are from those of the whole batch."""
    learner, x, t, ids = attached(method, nets.CASES["functional_residual"])
    whole = copy.deepcopy(learner)
    teach(whole, x, t, ids)
    for half in (slice(0, 4), slice(4, 8)):
        teach(learner, x[half], t[half], ids[half], weight=0.5, scale=scale)
    return difference(gradients(whole.net), gradients(learner.net))


SUMS = ["dfa-published", "sdfa-published", "drtp-published", "f3-published"]
"""These sum over the batch, so the sums of the halves add up as they are: no scale."""


@pytest.mark.parametrize(
    "name",
    [
        "bp",
        "shallow",
        "dfa",
        "drtp",
        "f3",
        "sdfa",
    ],
)
def test_accumulation_over_two_halves(name):
    method = getattr(sb, name)(**({"memory": 16} if name == "f3" else {}))
    assert halves_add_up(method, 0.5) < 1e-12


@pytest.mark.parametrize("name", SUMS)
def test_accumulation_of_published_sums(name):
    page = sb.methods.page(name.split("-")[0])
    options = {"memory": 16} if name.startswith("f3") else {}
    options |= {} if name.startswith("drtp") else {"link": sb.signals.softmax}
    assert halves_add_up(page.as_published(**options), 1.0) < 1e-12


def test_scale_may_be_a_tensor(early):
    learner, x, t, ids = attached(early, nets.CASES["mlp"])
    results = []
    for scale in (0.5, torch.tensor(0.5, dtype=torch.float64)):
        one = copy.deepcopy(learner)
        teach(one, x, t, ids, scale=scale)
        results.append(gradients(one.net))
    assert same(*results)


def test_two_forwards_before_one_backward(method, case):
    learner, x, t, ids = attached(method, case, n=16)
    parts = [(x[:8], t[:8], ids[:8]), (x[8:], t[8:], ids[8:])]
    apart = copy.deepcopy(learner)
    fresh(apart)
    for part in parts:
        teach(apart, *part)

    fresh(learner)
    losses = [F.cross_entropy(logits(learner(x, target=t, ids=ids)), t) for x, t, ids in parts]
    sum(losses).backward()
    assert difference(gradients(apart.net), gradients(learner.net)) < 1e-12


def test_no_gradient_is_kept_from_a_forward_without_backward(method):
    learner, x, t, ids = attached(method, nets.CASES["mlp"], n=16)
    other = copy.deepcopy(learner)
    learner(x[8:], target=t[8:], ids=ids[8:])
    other.load_state_dict(learner.state_dict())  # memory and random directions move on with every pass
    for one in (learner, other):
        teach(one, x[:8], t[:8], ids[:8])
    assert same(gradients(learner.net), gradients(other.net))


def test_autocast(method, case):
    """A bf16 error meets float32 feedback and float32 parameters."""
    learner, x, t, ids = attached(method, case, dtype=torch.float32)
    for _ in range(2):
        learner.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            y = logits(learner(x, target=t, ids=ids))
            loss = F.cross_entropy(y, t)
        loss.backward()
        assert y.dtype == torch.bfloat16
        for name, gradient in gradients(learner.net).items():
            assert (gradient is None) == (name in learner.frozen)
            assert gradient is None or gradient.isfinite().all()
            assert gradient is None or gradient.dtype == torch.float32
    assert all(B.dtype == torch.float32 for B in learner.feedback.values())


def test_autocast_is_near_to_full_precision(direct):
    learner, x, t, ids = attached(direct, nets.CASES["mlp"], dtype=torch.float32)
    low = copy.deepcopy(learner)
    teach(learner, x, t, ids)
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(low(x, target=t, ids=ids), t)
    loss.backward()
    a, b = gradients(learner.net), gradients(low.net)
    if direct.signal.__class__.__name__ in ("Signed", "Scaled") and "Signed" in repr(direct.signal):
        assert torch.equal(a["4.weight"].sign(), b["4.weight"].sign())  # a sign may flip, where the error is near 0
    else:
        assert difference(a, b) < 0.05


# --------------------------------------------------------------------------------------------- leaves no trace


def state(learner):
    return {name: value.clone() for name, value in learner.state_dict().items()}


def test_eval_is_untouched(method, case):
    x, t, ids = batch(case.shape)
    net = made(case.build).eval()
    with torch.no_grad():
        expected = logits(net(x))
    learner = sb.attach(net, method, x, show=None)
    before = state(learner)
    for inputs in ({}, {"target": t, "ids": ids}):
        with torch.no_grad():
            assert torch.equal(expected, logits(learner(x, **inputs)))
        with torch.inference_mode():
            assert torch.equal(expected, logits(learner(x, **inputs)))
        assert torch.equal(expected, logits(learner(x, **inputs)))
    assert same(before, learner.state_dict())


def test_training_mode_without_gradients_needs_no_target_and_writes_nothing(method):
    learner, x, *_ = attached(method, nets.CASES["mlp"])
    before = state(learner)
    with torch.no_grad():
        learner(x)
    assert same(before, learner.state_dict())


def needs_example(method):
    """Whether attach itself asks for one."""
    return (
        (isinstance(method, Direct) and method.feedback.learns)
        or (isinstance(method, Layerwise) and method.transport.learned)
        or (isinstance(method, Perturbed) and method.estimate.local)
    )


def test_a_pass_without_gradients_does_not_look_for_blocks(method):
    if needs_example(method):
        pytest.skip("learned feedback needs an example")
    learner = sb.attach(made(nets.mlp), method, show=None)
    with torch.no_grad():
        learner(batch()[0])
    assert learner.layout is None


def test_outputs_in_training_are_those_of_the_plain_network(method, case):
    learner, x, t, ids = attached(method, case)
    plain = made(case.build)
    torch.manual_seed(5)
    expected = logits(plain(x))
    torch.manual_seed(5)
    assert torch.equal(expected, logits(learner(x, target=t, ids=ids)))


def test_exact_is_plain_backprop_to_the_bit(method, case):
    learner, x, t, ids = attached(method, case)
    plain = made(case.build)
    for inputs in ({}, {"target": t, "ids": ids}):
        torch.manual_seed(5)
        plain.zero_grad()
        F.cross_entropy(logits(plain(x)), t).backward()
        fresh(learner)
        with learner.exact():
            y = logits(learner(x, **inputs))
        F.cross_entropy(y, t).backward()
        assert same(gradients(plain), gradients(learner.net))
    if learner.memory is not None:
        assert not learner.memory.seen.any()


def test_bp_is_plain_backprop_to_the_bit(case):
    for constructor in (sb.bp, sb.methods.page("bp").as_published):
        learner, x, t, ids = attached(constructor(), case)
        plain = made(case.build)
        torch.manual_seed(5)
        F.cross_entropy(logits(plain(x)), t).backward()
        fresh(learner)
        teach(learner, x, t, ids)
        assert same(gradients(plain), gradients(learner.net))


def hooks(net):
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) + len(m._backward_pre_hooks)
        for m in net.modules()
    )


def test_detach_leaves_a_plain_network(method, case):
    x, t, ids = batch(case.shape)
    net = made(case.build)
    keys, modules = list(net.state_dict()), [name for name, _ in net.named_modules()]
    learner = sb.attach(net, method, x, show=None)
    teach(learner, x, t, ids)
    assert hooks(net) > 0
    assert learner.detach() is net
    assert hooks(net) == 0
    assert list(net.state_dict()) == keys
    assert [name for name, _ in net.named_modules()] == modules

    plain = made(case.build)
    plain.load_state_dict(net.state_dict())
    results = []
    for one in (net, plain):
        one.zero_grad()
        torch.manual_seed(5)
        F.cross_entropy(logits(one(x)), t).backward()
        results.append(gradients(one))
    assert same(*results)
    sb.attach(net, method, x, show=None).detach()  # free for the next one


def test_the_learner_detaches_at_the_end_of_a_with_block(method):
    net = made(nets.mlp)
    with sb.attach(net, method, batch()[0], show=None) as learner:
        assert hooks(net) > 0
        assert learner.net is net
    assert hooks(net) == 0


def test_attach_changes_no_weight_buffer_or_random_state(method, case):
    net = made(case.build)
    x, *_ = batch(case.shape)
    before, flags = state(net), [p.requires_grad for p in net.parameters()]
    random = torch.get_rng_state()
    sb.attach(net, method, x, show=None)
    assert torch.equal(random, torch.get_rng_state())
    assert same(before, net.state_dict())
    assert flags == [p.requires_grad for p in net.parameters()]
    assert net.training
    assert all(p.grad is None for p in net.parameters())


def test_the_network_keeps_its_own_state_dict(method, case):
    """No key of the method's in it, while attached and after a step; the learner's has both."""
    keys = list(made(case.build).state_dict())
    learner, x, t, ids = attached(method, case)
    step(learner, x, t, ids)
    assert list(learner.net.state_dict()) == keys
    extra = set(learner.state_dict()) - {f"net.{key}" for key in keys}
    expected = (
        {f"route.{name}" for names in learner.direct.names.values() for name in names} if learner.direct else set()
    )
    if learner.memory is not None:
        expected |= {f"route.memory.{name}" for name in ("rows", "seen", "prints")}
    if getattr(method, "feedback", None) is not None and Sees.JACOBIAN in method.feedback.sees:
        expected.add("route.stream.position")
    if learner.route is not None:
        expected |= {f"route.{name}" for name in learner.route.state_dict()}
    assert extra == expected
    learned = list(learner.direct.parameters()) if learner.direct else []
    if learner.route is not None:
        learned = [B for B in learner.feedback.values() if B.requires_grad]
    if isinstance(method, Perturbed) and method.estimate.local:
        learned = list(learner.route.classifiers.parameters())
    assert [id(p) for p in learner.parameters()] == [id(p) for p in [*learner.net.parameters(), *learned]]


def test_without_an_example_the_first_forward_finds_the_same_blocks(method, case):
    if needs_example(method):
        pytest.skip("learned feedback needs an example")
    x, t, ids = batch(case.shape)
    early = sb.attach(made(case.build), method, x, show=None)
    late = sb.attach(made(case.build), method, show=None)
    for one in (early, late):
        fresh(one)
        teach(one, x, t, ids)
    assert same(gradients(early.net), gradients(late.net))
    assert same(early.feedback, late.feedback)
    if not isinstance(method, Exact):
        assert early.layout.cuts == late.layout.cuts
    if isinstance(method, Direct):
        assert list(early.direct.ports) == [s.block for s in early.layout.segments[:-1]]

"""Many networks trained as one: each member ends where its own single run ends."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import skipback as sb
from skipback import Many
from skipback.engine.many.teacher import rowwise
from skipback.signals import Delayed, LossGradient, Masked, OutputError, OutputGradient, Scaled, Signed, Zero, sigmoid

N, B, S, C = 3, 6, 24, 4
METHODS = {
    "bp": sb.bp(),
    "shallow": sb.shallow(),
    "dfa": sb.dfa(),
    "drtp": sb.drtp(),
    "sdfa": sb.sdfa(),
    "ternary_dfa": sb.ternary_dfa(),
    "f3": sb.f3(memory=S),
    "f3, loss": sb.f3(memory=S, signal=Delayed(S, of=OutputGradient(F.mse_loss))),
    "error": sb.Direct(paper=sb.dfa().paper, signal=OutputError()),
}
UPDATES = {
    "adam": partial(sb.update.adam, 1e-2),
    "adamw": partial(sb.update.adamw, 1e-2, weight_decay=0.1),
    "sgd": partial(sb.update.sgd, 0.1),
    "sgd, decay": partial(sb.update.sgd, 0.1, weight_decay=0.1),
    "momentum": partial(sb.update.momentum, 0.1, nesterov=True),
    "rmsprop": partial(sb.update.rmsprop, 1e-2),
}


def learner(method=METHODS["dfa"], seed=0, *, dtype=torch.float64, sizes=(5, 7, 3, C), bias=True, between=nn.Tanh):
    """A small dense network with a method."""
    torch.manual_seed(seed)
    layers = [nn.Flatten()]
    for k in range(len(sizes) - 1):
        layers += [nn.Linear(sizes[k], sizes[k + 1], bias=bias), *([between()] if k < len(sizes) - 2 else [])]
    net = nn.Sequential(*layers).to(dtype)
    return sb.attach(net, method, example=torch.randn(2, sizes[0], dtype=dtype), seed=seed, show=None)


def pairs(methods=METHODS["dfa"], **options):
    """Members, and the same again for their single runs."""
    given = methods if isinstance(methods, list) else [methods] * N
    return [[learner(method, n, **options) for n, method in enumerate(given)] for _ in range(2)]


def batches(steps, dtype=torch.float64):
    """Per step: x (N, B, 5), t (N, B), ids (N, B), each member with an order of its own."""
    generator = torch.Generator().manual_seed(1)
    data, classes = torch.randn(S, 5, generator=generator, dtype=dtype), torch.randint(C, (S,), generator=generator)
    for _ in range(steps):
        ids = torch.stack([torch.randperm(S, generator=generator)[:B] for _ in range(N)])
        yield data[ids], classes[ids], ids


def alone(learners, updates, steps, loss=F.cross_entropy, dtype=torch.float64):
    """The single runs."""
    for x, t, ids in steps:
        for n, (one, update) in enumerate(zip(learners, updates, strict=True)):
            one.step(x[n], t[n], loss=loss, update=update, ids=ids[n])


def far(one, other):
    """The largest difference between two states."""
    first, second = one.state_dict(), other.state_dict()
    assert list(first) == list(second)
    return max((first[k].double() - second[k].double()).abs().max().item() for k in first)


def farthest(members, singles):
    return max(far(a, b) for a, b in zip(members, singles, strict=True))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_each_member_ends_where_its_single_run_ends(method, dtype, near):
    members, singles = pairs(method, dtype=dtype)
    started = copy.deepcopy([one.state_dict() for one in members])
    many, update = Many(members), sb.update.adam(1e-3)
    for x, t, ids in batches(50, dtype):
        many.step(x, t, loss=F.cross_entropy, update=update, ids=ids)
    alone(singles, [sb.update.adam(1e-3) for _ in singles], batches(50, dtype))
    assert farthest(members, singles) < near
    for one, before in zip(members, started, strict=True):
        moved = {name for name, p in one.net.state_dict().items() if not torch.equal(p, before[f"net.{name}"])}
        assert moved == ({"5.weight", "5.bias"} if method is METHODS["shallow"] else set(one.net.state_dict()))


@pytest.mark.parametrize("make", UPDATES.values(), ids=UPDATES)
@pytest.mark.parametrize("method", ["bp", "f3"])
def test_every_update_leaves_the_weights_and_the_state_of_single_runs(make, method):
    members, singles = pairs(METHODS[method])
    many, own = Many(members), [make() for _ in singles]
    update = make()
    for x, t, ids in batches(20):
        many.step(x, t, loss=F.cross_entropy, update=update, ids=ids)
    alone(singles, own, batches(20))
    assert farthest(members, singles) < 1e-12
    for together, single in zip(many.updates, own, strict=True):
        torch.testing.assert_close(
            together.optimizer.state_dict(), single.optimizer.state_dict(), rtol=1e-10, atol=1e-12
        )


def test_each_step_returns_the_losses_before_it():
    members, singles = pairs()
    many, own, update = Many(members), [sb.update.sgd(0.1) for _ in singles], sb.update.sgd(0.1)
    for x, t, _ in batches(3):
        losses = many.step(x, t, loss=F.cross_entropy, update=update)
        expected = [one.step(x[n], t[n], loss=F.cross_entropy, update=own[n]) for n, one in enumerate(singles)]
        torch.testing.assert_close(losses, torch.stack(expected), rtol=0, atol=1e-12)
        assert len(set(losses.tolist())) == N


@pytest.mark.parametrize("between", [nn.ReLU, nn.Sigmoid, partial(nn.LeakyReLU, 0.3), nn.GELU, nn.SiLU])
def test_activations_and_layers_without_bias(between):
    members, singles = pairs(METHODS["bp"], between=between, bias=False)
    many, update = Many(members), sb.update.sgd(0.1)
    for x, t, _ in batches(5):
        many.step(x, t, loss=F.cross_entropy, update=update)
    alone(singles, [sb.update.sgd(0.1) for _ in singles], batches(5))
    assert farthest(members, singles) < 1e-12


def double_mean(y, t):
    """A loss that is no mean over samples: called once for each member."""
    return F.cross_entropy(y, t) ** 2


def one_hot(loss):
    return lambda y, t: loss(y, F.one_hot(t, C).to(y))


@pytest.mark.parametrize("loss", [F.mse_loss, F.binary_cross_entropy_with_logits, F.cross_entropy])
def test_losses_on_values(loss):
    members, singles = pairs(METHODS["f3"])
    many, update, own = Many(members), sb.update.sgd(0.3), [sb.update.sgd(0.3) for _ in singles]
    for x, t, ids in batches(5):
        values = F.one_hot(t, C).to(x)
        many.step(x, values, loss=loss, update=update, ids=ids)
        for n, one in enumerate(singles):
            one.step(x[n], values[n], loss=loss, update=own[n], ids=ids[n])
    assert farthest(members, singles) < 1e-12


def test_a_loss_of_ones_own():
    members, singles = pairs()
    many, update = Many(members), sb.update.sgd(0.1)
    for x, t, _ in batches(5):
        many.step(x, t, loss=double_mean, update=update)
    alone(singles, [sb.update.sgd(0.1) for _ in singles], batches(5), loss=double_mean)
    assert farthest(members, singles) < 1e-12


def test_a_class_that_is_ignored_leaves_the_mean_of_its_member_alone():
    members, singles = pairs()
    (x, t, _), update = next(batches(1)), sb.update.sgd(0.1)
    t[1, :3] = -100
    Many(members).step(x, t, loss=F.cross_entropy, update=update)
    alone(singles, [sb.update.sgd(0.1) for _ in singles], [(x, t, t)])
    assert farthest(members, singles) < 1e-12


def test_one_batch_for_all():
    members, singles = pairs(METHODS["f3"])
    many, update, own = Many(members), sb.update.sgd(0.1), [sb.update.sgd(0.1) for _ in singles]
    for x, t, ids in batches(3):
        shared = [part[0].expand(N, *part[0].shape) for part in (x, t, ids)]
        many.step(shared[0], shared[1], loss=F.cross_entropy, update=update, ids=shared[2])
        alone(singles, own, [shared])
    assert farthest(members, singles) < 1e-12


# ------------------------------------------------------------------------------------------- members that differ


@pytest.mark.parametrize(("rates", "groups"), [((0.1, 0.1, 0.3), 2), ((0.1, 0.2, 0.1), 3), ((0.1, 0.1, 0.1), 1)])
@pytest.mark.parametrize("make", [sb.update.adam, sb.update.sgd])
def test_members_with_their_own_rates(rates, groups, make):
    members, singles = pairs()
    many, updates = Many(members), [make(rate) for rate in rates]
    for x, t, _ in batches(10):
        many.step(x, t, loss=F.cross_entropy, update=updates)
    alone(singles, [make(rate) for rate in rates], batches(10))
    assert farthest(members, singles) < 1e-12
    assert len(many.groups) == groups
    assert many.updates == updates


def test_rates_that_part_and_stay_apart():
    members, singles = pairs()
    many, updates, own = Many(members), [sb.update.adam(1e-2) for _ in members], [sb.update.adam(1e-2) for _ in singles]
    for k, (x, t, _) in enumerate(batches(9)):
        if k == 4:
            for update in (updates[1], own[1]):
                update.optimizer.param_groups[0]["lr"] = 0.1
        many.step(x, t, loss=F.cross_entropy, update=updates)
        alone(singles, own, [(x, t, t)])
        assert len(many.groups) == (1 if k < 4 else 3)
    assert farthest(members, singles) < 1e-12


def test_members_with_their_own_signal_and_draw():
    methods = [
        sb.dfa(),
        sb.dfa(feedback=sb.feedback.Fixed(sb.draws.Gaussian())),
        sb.Direct(paper=sb.dfa().paper, signal=Scaled(OutputError(sigmoid), factor=0.5, mean=True)),
    ]
    members, singles = pairs(methods)
    many, update = Many(members), sb.update.adam(1e-2)
    for x, t, _ in batches(10):
        many.step(x, t, loss=F.cross_entropy, update=update)
    alone(singles, [sb.update.adam(1e-2) for _ in singles], batches(10))
    assert farthest(members, singles) < 1e-12


def centred(y):
    """A link that looks at the whole batch."""
    return y - y.mean()


@pytest.mark.parametrize("signal", [OutputError(centred), Delayed(S, of=OutputError(centred))])
def test_a_signal_that_looks_at_a_whole_batch_sees_that_of_its_member(signal):
    members, singles = pairs(sb.Direct(paper=sb.dfa().paper, signal=signal))
    many, update, own = Many(members), sb.update.sgd(0.1), [sb.update.sgd(0.1) for _ in singles]
    for x, t, ids in batches(10):
        many.step(x, t, loss=F.cross_entropy, update=update, ids=ids)
        alone(singles, own, [(x, t, ids)])
    assert farthest(members, singles) < 1e-12


def test_a_signal_with_and_without_memory_side_by_side():
    members, singles = pairs([sb.dfa(), sb.f3(memory=S), sb.f3(memory=2 * S)])
    many, update = Many(members), sb.update.adam(1e-2)
    for x, t, ids in batches(12):
        many.step(x, t, loss=F.cross_entropy, update=update, ids=ids)
    alone(singles, [sb.update.adam(1e-2) for _ in singles], batches(12))
    assert farthest(members, singles) < 1e-12
    with pytest.raises(ValueError, match="needs ids"):
        many.step(x, t, loss=F.cross_entropy, update=update)


def test_what_looks_at_a_whole_batch_is_not_taken_for_rowwise():
    assert rowwise(Scaled(Delayed(S), mean=True))
    assert not rowwise(Delayed(S, of=OutputGradient(F.mse_loss)))
    assert not rowwise(OutputError(lambda y: y - y.mean()))


# --------------------------------------------------------------------------------------------- before and after


def test_members_show_where_they_stand_at_every_step():
    members, singles = pairs(METHODS["f3"])
    many, update, own = Many(members), sb.update.adam(1e-2), [sb.update.adam(1e-2) for _ in singles]
    for x, t, ids in batches(3):
        many.step(x, t, loss=F.cross_entropy, update=update, ids=ids)
        alone(singles, own, [(x, t, ids)])
        for one, single in zip(members, singles, strict=True):
            torch.testing.assert_close(one.net.eval()(x[0]), single.net.eval()(x[0]), rtol=0, atol=1e-12)
            one.train(), single.train()


@pytest.mark.parametrize("make", [UPDATES["adam"], UPDATES["momentum"], UPDATES["rmsprop"]])
def test_a_run_goes_on_from_alone_to_together_and_back(make):
    members, singles = pairs(METHODS["f3"])
    updates, own, data = [make() for _ in members], [make() for _ in singles], list(batches(30))
    alone(members, updates, data[:10])
    many = Many(members)
    for x, t, ids in data[10:20]:
        many.step(x, t, loss=F.cross_entropy, update=updates, ids=ids)
    alone(many.unstack(), updates, data[20:])
    alone(singles, own, data)
    assert farthest(members, singles) < 1e-12
    for mine, single in zip(updates, own, strict=True):
        torch.testing.assert_close(mine.optimizer.state_dict(), single.optimizer.state_dict(), rtol=1e-10, atol=1e-12)


def test_members_of_different_ages_keep_their_own_step_counters():
    members, singles = pairs()
    updates, own, data = (
        [sb.update.adam(1e-2) for _ in members],
        [sb.update.adam(1e-2) for _ in singles],
        list(batches(9)),
    )
    alone(members[:1], updates[:1], data[:4])
    many = Many(members)
    for x, t, _ in data[4:]:
        many.step(x, t, loss=F.cross_entropy, update=updates)
    alone(singles[:1], own[:1], data[:4])
    alone(singles, own, data[4:])
    assert farthest(members, singles) < 1e-12


def test_after_unstack_nothing_is_shared():
    members, _ = pairs(METHODS["f3"])
    many, update = Many(members), sb.update.adam(1e-2)
    (x, t, ids), again = batches(2)
    many.step(x, t, loss=F.cross_entropy, update=update, ids=ids)
    many.unstack()
    before = copy.deepcopy([members[1].state_dict(), many.updates[1].optimizer.state_dict()])
    alone(members[:1], many.updates[:1], [again])
    after = [members[1].state_dict(), many.updates[1].optimizer.state_dict()]
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert all(p.untyped_storage().nbytes() == p.nbytes for one in members for p in one.state_dict().values())
    with pytest.raises(RuntimeError, match="unstack"):
        many.step(x, t, loss=F.cross_entropy, update=update, ids=ids)


def test_a_scheduler_and_a_loaded_state_are_followed():
    members, singles = pairs()
    many, updates, own = Many(members), [sb.update.adam(1e-2) for _ in members], [sb.update.adam(1e-2) for _ in singles]
    data = list(batches(9))
    for k, (x, t, _) in enumerate(data):
        if k in (3, 6):
            for update in (*updates, *own):
                update.optimizer.param_groups[0]["lr"] *= 0.1
        if k in (4, 7):  # the first one gives the group's settings another order, too
            for update in (*updates, *own):
                update.optimizer.load_state_dict(copy.deepcopy(update.optimizer.state_dict()))
        many.step(x, t, loss=F.cross_entropy, update=updates)
        alone(singles, own, [(x, t, t)])
    assert farthest(members, singles) < 1e-12
    torch.testing.assert_close(updates[2].optimizer.state_dict(), own[2].optimizer.state_dict(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("many_updates", [False, True])
def test_updates_that_take_turns_keep_their_own_state(many_updates):
    members, singles = pairs()
    many, kinds = Many(members), (UPDATES["adam"], UPDATES["momentum"])  # adam's turns are the steps 0, 1, 4, 5
    turns = [[make() for _ in members] if many_updates else make() for make in kinds]
    own = [[make() for _ in singles] for make in kinds]
    for k, (x, t, ids) in enumerate(batches(8)):
        given = turns[k // 2 % 2]
        many.step(x, t, loss=F.cross_entropy, update=list(given) if many_updates else given)
        alone(singles, own[k // 2 % 2], [(x, t, ids)])
    assert farthest(members, singles) < 1e-12
    served = [u for update in turns for u in (update if many_updates else many.copies[update])]
    many.unstack()
    parts = [part for u in served for state in u.optimizer.state.values() for part in state.values()]
    assert len(parts) == len(served) // 2 * 6 * (3 + 1)  # of each of 6 weights, adam keeps three and momentum one
    assert all(part.untyped_storage().nbytes() == part.nbytes for part in parts)


WRAPPED = {
    "published f3": Scaled(Delayed(S), factor=-1.0),
    "signed mean": Signed(Scaled(LossGradient(), mean=True)),
    "mean of a mean": Scaled(Scaled(LossGradient(), factor=3.0, mean=True), mean=True),
    "masked": Scaled(Masked(OutputError()), factor=0.1),
    "zero": Zero(),
}


@pytest.mark.parametrize("signal", WRAPPED.values(), ids=WRAPPED)
def test_wrapped_signals_are_found_for_all_at_once(signal):
    members, singles = pairs(sb.Direct(paper=sb.dfa().paper, signal=signal))
    many, update, own = Many(members), sb.update.sgd(0.1), [sb.update.sgd(0.1) for _ in singles]
    assert many.teacher.joint
    for x, t, ids in batches(8):
        many.step(x, t, loss=F.cross_entropy, update=update, ids=ids)
        alone(singles, own, [(x, t, ids)])
    assert farthest(members, singles) < 1e-12


def test_a_member_that_loads_a_state_with_unseen_samples_is_followed():
    members, singles = pairs(METHODS["f3"])
    many, update, own = Many(members), sb.update.sgd(0.1), [sb.update.sgd(0.1) for _ in singles]
    fresh = copy.deepcopy(members[1].state_dict())
    for k, (x, t, ids) in enumerate(batches(60)):
        if k == 50:
            assert all(one.memory.all_seen for one in members)
            members[1].load_state_dict(fresh)
            singles[1].load_state_dict(fresh)
        many.step(x, t, loss=F.cross_entropy, update=update, ids=ids)
        alone(singles, own, [(x, t, ids)])
    assert farthest(members, singles) < 1e-12


# ------------------------------------------------------------------------------------------------------ refusals


def net_of(*modules):
    return sb.attach(nn.Sequential(*modules), sb.dfa(), example=torch.randn(2, 5), show=None)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: learner(sb.dkp()), "learned feedback"),
        (lambda: learner(sb.tiny_dfa()), "feedback of kind Sliced"),
        (lambda: learner(sb.fa()), "a Layerwise method"),
        (lambda: learner(sb.anchored(sb.dfa(), every=2)), "without its anchor"),
        (lambda: net_of(nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)), "nn.Sequential of Linear"),
        (lambda: net_of(nn.Linear(5, 3), nn.Dropout(), nn.Linear(3, 2)), "nn.Sequential of Linear"),
        (lambda: sb.attach(nn.Sequential(nn.Linear(5, 3), nn.Dropout()), sb.bp(), show=None), "nn.Sequential of"),
        (lambda: sb.attach(nn.Sequential(nn.Linear(5, 3)), sb.dfa(), show=None), "pass example="),
    ],
)
def test_what_has_no_batched_form_is_refused_by_name(build, message):
    with pytest.raises(ValueError, match=f"^member 1: .*{message}"):
        Many([learner(), build()])


def test_frozen_or_hooked_layers_are_refused():
    for method in (sb.bp(), sb.dfa()):
        frozen, hooked = learner(method), learner(method)
        frozen.net[1].weight.requires_grad_(False)
        hooked.net[2].register_forward_hook(lambda *_: None)
        for one in (frozen, hooked):
            with pytest.raises(ValueError, match="without other hooks"):
                Many([one])


def test_members_that_differ_in_shape_or_route_or_share_weights_are_refused():
    with pytest.raises(ValueError, match=r"member 1 is .*5 -> 8.*but member 0 is .*5 -> 7"):
        Many([learner(), learner(sizes=(5, 8, 3, C))])
    with pytest.raises(ValueError, match="all must be of one shape"):
        Many([learner(), learner(between=nn.ReLU)])
    with pytest.raises(ValueError, match="one route, but these are Direct, Exact"):
        Many([learner(), learner(sb.bp())])
    one = learner()
    with pytest.raises(ValueError, match="share a weight"):
        Many([one, one])
    with pytest.raises(ValueError, match="no learner"):
        Many([])


def test_wrong_steps_are_refused():
    members, _ = pairs(METHODS["f3"])
    many, update, (x, t, ids) = Many(members), sb.update.adam(), next(batches(1))
    step = partial(many.step, loss=F.cross_entropy, update=update)
    for wrong in ({"x": x[0]}, {"x": x[:2]}, {"t": t[:, :2]}, {"ids": ids[0]}):
        with pytest.raises(ValueError, match="first dimensions must be 3 members"):
            step(**{"x": x, "t": t, "ids": ids, **wrong})
    with pytest.raises(ValueError, match="needs ids"):
        step(x, t)
    with pytest.raises(ValueError, match="list of 3 different ones"):
        many.step(x, t, loss=F.cross_entropy, update=[update] * 3, ids=ids)
    members[1].eval()
    with pytest.raises(ValueError, match="train"):
        step(x, t, ids=ids)


@pytest.mark.parametrize(("member", "wrong"), [(0, S), (1, -1)])
@pytest.mark.parametrize("checks", [100, 0])
def test_an_id_never_reaches_the_row_of_another_member(member, wrong, checks):
    members, _ = pairs(METHODS["f3"])
    x, t, ids = next(batches(1))
    ids[member, 0] = wrong
    for one in members:
        one.memory.input_checks_left = checks  # afterwards inputs are not compared any more
    with pytest.raises(IndexError, match="samples 0 to 23"):
        Many(members).step(x, t, loss=F.cross_entropy, update=sb.update.adam(), ids=ids)


def test_a_sample_whose_input_changed_is_refused():
    members, _ = pairs(METHODS["f3"])
    many, update, (x, t, ids) = Many(members), sb.update.adam(), next(batches(1))
    many.step(x, t, loss=F.cross_entropy, update=update, ids=ids)
    x[1, 2] += 1
    with pytest.raises(ValueError, match=f"the input of sample {int(ids[1, 2])} differs"):
        many.step(x, t, loss=F.cross_entropy, update=update, ids=ids)


def test_a_collapsing_combination_warns_as_it_does_alone():
    one_signed = sb.drtp(feedback=sb.feedback.Fixed(lambda rows, columns, generator: torch.ones(rows, columns)))
    members, _ = pairs(one_signed)
    x, t, _ = next(batches(1))
    with pytest.warns(sb.SkipbackWarning, match="one sign"):
        Many(members).step(x, t, loss=F.cross_entropy, update=sb.update.adam())


def test_a_member_that_was_moved_is_not_silently_left_behind():
    members, _ = pairs()
    many, (x, t, _) = Many(members), next(batches(1))
    members[2].float().double()
    with pytest.raises(RuntimeError, match="moved or converted"):
        many.step(x, t, loss=F.cross_entropy, update=sb.update.adam())


def test_an_update_with_several_groups_is_refused():
    members, _ = pairs()
    x, t, _ = next(batches(1))
    update = sb.update.Update(lambda ps: torch.optim.SGD([{"params": [p]} for p in ps], lr=0.1))
    with pytest.raises(ValueError, match="several parameter groups"):
        Many(members).step(x, t, loss=F.cross_entropy, update=update)


def freeze(one):
    one.net[1].weight.requires_grad_(False)


def hook(one):
    one.net[2].register_forward_hook(lambda module, x, y: y * 2)


def gradient_hook(one):
    one.net[1].weight.register_hook(lambda g: g * 0)


def exchange(one):
    one.net[2] = nn.ReLU()


def assign(one):
    one.load_state_dict(copy.deepcopy(one.state_dict()), assign=True)


@pytest.mark.parametrize("change", [freeze, hook, gradient_hook, exchange, assign])
@pytest.mark.parametrize("method", [METHODS["dfa"], METHODS["bp"]])
def test_a_member_that_is_changed_is_refused(method, change):
    """It would go on as it was, in silence."""
    members, _ = pairs(method)
    many, update = Many(members), sb.update.adam()
    (x, t, ids), last = batches(2)
    many.step(x, t, loss=F.cross_entropy, update=update, ids=ids)
    change(members[1])
    before = copy.deepcopy([one.state_dict() for one in members])
    with pytest.raises(RuntimeError, match=r"a member has changed|moved or converted"):
        many.step(last[0], last[1], loss=F.cross_entropy, update=update, ids=last[2])
    assert all(
        torch.equal(v, one.state_dict()[k]) for one, kept in zip(members, before, strict=True) for k, v in kept.items()
    )


def test_a_parameter_that_waits_for_its_grad_has_no_batched_form():
    members, _ = pairs(METHODS["bp"])
    members[2].net[1].weight.register_post_accumulate_grad_hook(lambda p: None)
    with pytest.raises(ValueError, match="member 2"):
        Many(members)


@pytest.mark.parametrize("cleared", [(0, 1, 2), (1,)])
def test_a_state_that_is_cleared_begins_anew(cleared):
    members, singles = pairs()
    many, shared, own = Many(members), sb.update.adam(1e-2), [sb.update.adam(1e-2) for _ in singles]
    for k, (x, t, ids) in enumerate(batches(6)):
        if k == 3:
            for n in cleared:
                many.updates[n].optimizer.state.clear()
                own[n].optimizer.state.clear()
        many.step(x, t, loss=F.cross_entropy, update=shared, ids=ids)
        alone(singles, own, [(x, t, ids)])
    assert farthest(members, singles) < 1e-12


def test_hooks_of_a_members_optimizer_are_refused():
    members, _ = pairs()
    many, update = Many(members), sb.update.adam()
    for k, (x, t, ids) in enumerate(batches(2)):
        if k == 0:
            many.step(x, t, loss=F.cross_entropy, update=update, ids=ids)
            many.updates[1].optimizer.register_step_post_hook(lambda *_: None)
            continue
        with pytest.raises(ValueError, match="member 1: its optimizer has hooks"):
            many.step(x, t, loss=F.cross_entropy, update=update, ids=ids)


def test_what_is_no_loss_and_inference_mode_are_refused():
    members, _ = pairs()
    many, ((x, t, ids),) = Many(members), batches(1)
    with pytest.raises(TypeError, match="a tensor of one number"):
        many.step(x, t, loss=lambda y, t: F.cross_entropy(y, t).item(), update=sb.update.adam(), ids=ids)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference mode"):
        many.step(x, t, loss=F.cross_entropy, update=sb.update.adam(), ids=ids)

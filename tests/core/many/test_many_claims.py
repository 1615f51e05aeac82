"""Every method of the table either ends where its single runs end, whatever the update, or is refused by name."""

import inspect
from functools import partial

import pytest
import torch.nn.functional as F
from test_many import N, S, alone, batches, far, farthest, learner, pairs
from torch import optim

import skipback as sb
from skipback import Many, methods, signals

TRAINED = {"bp", "shallow", "dfa", "fwm", "ternary_dfa", "sdfa", "drtp", "f3"}
UPDATES = {
    "adam": lambda k: sb.update.adam(0.01 * (k + 1)),
    "adamw": lambda k: sb.update.adamw(0.01 * (k + 1), weight_decay=0.1 * k),
    "sgd": lambda k: sb.update.sgd(0.05 * (k + 1)),
    "momentum": lambda k: sb.update.momentum(0.05 * (k + 1), momentum=0.5 + 0.1 * k),
    "rmsprop": lambda k: sb.update.rmsprop(0.01 * (k + 1)),
}
OTHERS = (optim.Adagrad, optim.Adadelta, optim.Adamax, optim.NAdam, optim.RAdam, optim.ASGD, optim.Rprop)


def made(name, kind):
    """A method of the table, in the library's convention or as published."""
    constructor = getattr(methods.page(name), kind)
    wanted = inspect.signature(constructor).parameters
    return constructor(**{k: v for k, v in {"memory": S, "link": signals.softmax}.items() if k in wanted})


def refusal(method):
    """Why a method is not trained together, in the first words of the error; empty if it is."""
    if isinstance(method, (sb.Layerwise, sb.Perturbed)):
        return f"a {type(method).__name__} method"
    if not isinstance(method, sb.Direct):
        return ""
    if method.learns:
        return "learned feedback"
    plain = type(method.feedback).project is sb.feedback.Matrix.project
    return "" if plain else "feedback of kind"


ACCEPTED = {name for name in methods.TABLE if not refusal(made(name, name))}


def test_what_is_accepted_stays_accepted():
    assert ACCEPTED >= TRAINED


def ends(method, make, steps=6):
    """The largest difference between members and single runs, each with its own update; and how far the first moved."""
    members, singles = pairs(method)
    start, many = learner(method, 0), Many(members)
    updates, own = [make(k) for k in range(N)], [make(k) for k in range(N)]
    for x, t, ids in batches(steps):
        many.step(x, t, loss=F.cross_entropy, update=updates, ids=ids)
        alone(singles, own, [(x, t, ids)])
    return farthest(members, singles), far(start, members[0])


@pytest.mark.parametrize("make", UPDATES.values(), ids=UPDATES)
@pytest.mark.parametrize("name", sorted(ACCEPTED))
def test_each_accepted_method_under_each_update_with_its_own_rates(name, make):
    for kind in (name, "as_published"):
        difference, moved = ends(made(name, kind), make)
        assert difference < 1e-12
        assert moved > 1e-3


@pytest.mark.parametrize("name", [name for name in methods.TABLE if name not in ACCEPTED])
def test_each_other_method_is_refused_with_its_reason(name):
    why = refusal(made(name, name))
    for kind in (name, "as_published"):
        with pytest.raises(
            ValueError,
            match=f"^member 0: {why}.* is not trained together: only .* (are|is): train it alone, by learner.step",
        ):
            Many([learner(made(name, kind))])


@pytest.mark.parametrize("kind", OTHERS)
def test_other_elementwise_optimizers_of_torch(kind):
    """All members at one rate, so that they are stepped as one."""
    difference, moved = ends(sb.dfa(), lambda k: sb.update.Update(partial(kind, lr=0.05)))
    assert difference < 1e-12
    assert moved > 1e-6


def test_an_optimizer_that_would_mix_members_is_refused_each_time():
    """Adafactor looks at the norm of a whole weight, which would be that of all members."""
    members, _ = pairs()
    many, (x, t, _) = Many(members), next(batches(1))
    for update in [sb.update.Update(optim.Adafactor)] * 2:
        with pytest.raises(ValueError, match=r"member 0: Adafactor .* one by one by learner.step"):
            many.step(x, t, loss=F.cross_entropy, update=update)
    assert farthest(members, pairs()[1]) == 0


class Whole(optim.SGD):
    """A class made from an elementwise one may look at norms, too."""


def test_what_is_made_from_an_elementwise_optimizer_is_refused():
    members, _ = pairs()
    many, (x, t, _) = Many(members), next(batches(1))
    with pytest.raises(ValueError, match="member 0: Whole is not known to step each number by itself"):
        many.step(x, t, loss=F.cross_entropy, update=sb.update.Update(partial(Whole, lr=0.1)))


def test_an_update_of_something_else_is_refused():
    """A single run refuses it, too; its state would be lost in silence."""
    members, _ = pairs()
    many, (x, t, _), used, other = Many(members), next(batches(1)), sb.update.adam(), learner(seed=9)
    other.step(x[0], t[0], loss=F.cross_entropy, update=used)
    with pytest.raises(ValueError, match="one update for all must be a new one"):
        many.step(x, t, loss=F.cross_entropy, update=used)
    with pytest.raises(ValueError, match="member 1: this update holds the optimizer of other parameters"):
        many.step(x, t, loss=F.cross_entropy, update=[sb.update.adam(), used, sb.update.adam()])
    some = sb.update.Update(lambda ps: optim.SGD(list(ps)[1:], lr=0.1))
    with pytest.raises(ValueError, match="member 0: this update holds the optimizer of other parameters"):
        many.step(x, t, loss=F.cross_entropy, update=some)


def test_members_with_their_own_signal_draw_and_update_at_once():
    """As the class says: all of these may differ from member to member."""
    kinds = [made("dfa", "dfa"), made("sdfa", "as_published"), made("f3", "f3")]
    members, singles = pairs(kinds)
    makes = list(UPDATES.values())[:N]
    many, updates, own = Many(members), [m(k) for k, m in enumerate(makes)], [m(k) for k, m in enumerate(makes)]
    for x, t, ids in batches(8):
        many.step(x, t, loss=F.cross_entropy, update=updates, ids=ids)
        alone(singles, own, [(x, t, ids)])
    assert farthest(members, singles) < 1e-12

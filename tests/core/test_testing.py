"""The contracts that third parties import: what is wrong on purpose is caught in words, and all of ours pass."""

import dataclasses
import random
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

import skipback as sb
from skipback import draws, estimate, methods, signals, structures, testing, transport, update
from skipback.core.feedback import Fixed, Matrix, Sees
from skipback.core.method import Direct
from skipback.core.records import Needs
from skipback.memory import Memory
from skipback.signals import Delayed, LossGradient, OutputError, Signal, Target, Wrapper
from skipback.structures import Gated, Normalised
from skipback.transport import Random, Transport

PAPER = sb.dfa().paper


def method_of(name):
    return sb.f3(memory=16) if name == "f3" else getattr(sb, name)()


def refused(check, *args, says, **options):
    with pytest.raises(AssertionError, match=says):
        check(*args, **options)


# -------------------------------------------------------------------------------------------------------------- ours


OWN_DRAWS = [one() for one in vars(draws).values() if isinstance(one, type) and dataclasses.is_dataclass(one)]
OWN_STRUCTURES = [
    *(structures.Sliced(), structures.Sliced(rescale=True), structures.LowRank(3), structures.Kronecker()),
    *(structures.ConvShaped(3), structures.Seeded(), structures.PerPosition(), structures.UnitColumns()),
    *(structures.Normalised(), structures.Gated(), structures.Gated(Normalised(structures.Seeded()))),
]
OWN_SIGNALS = [
    *(LossGradient(), Target(), signals.Zero(), OutputError(), signals.Scaled(LossGradient(), 2.0, mean=True)),
    *(signals.Signed(LossGradient()), signals.Ternarised(LossGradient()), signals.Masked(LossGradient())),
    *(signals.Scaled(Delayed(16, initial=initial)) for initial in (signals.minus_target, signals.zeros)),
    Delayed(16, of=signals.OutputGradient(nn.functional.mse_loss), initial=signals.ScaledTarget(0.5, shift=0.2)),
]
OWN_UPDATES = {
    "adam": update.adam,
    "adamw": update.adamw,
    "sgd": update.sgd,
    "momentum": update.momentum,
    "rmsprop": update.rmsprop,
    "split": lambda: update.split((update.muon(), lambda name, p: p.dim() == 2), update.adamw()),
    "once": lambda: update.Update(lambda ps: torch.optim.SGD(ps, 0.1), by_parameter=False),
}


@pytest.mark.parametrize("draw", OWN_DRAWS, ids=lambda one: type(one).__name__)
def test_our_draws_keep_the_laws(draw):
    testing.check_draw(draw)


@pytest.mark.parametrize("feedback", OWN_STRUCTURES, ids=lambda one: type(one).__name__)
def test_our_structures_keep_the_laws(feedback):
    testing.check_feedback(feedback)


@pytest.mark.parametrize("signal", OWN_SIGNALS, ids=lambda one: type(one).__name__)
def test_our_signals_keep_the_laws(signal):
    testing.check_signal(signal)


@pytest.mark.parametrize("combine", [estimate.mean, estimate.projection])
def test_our_estimates_keep_the_laws(combine):
    testing.check_combine(combine)


@pytest.mark.parametrize("kind", OWN_UPDATES)
def test_our_updates_keep_the_laws(kind):
    testing.check_update(OWN_UPDATES[kind])


@pytest.mark.parametrize("name", methods.TABLE)
def test_our_methods_keep_the_laws(name):
    """And what each of them is made of."""
    method = method_of(name)
    testing.check_method(method)
    for part, check in (
        ("feedback", testing.check_feedback),
        ("signal", testing.check_signal),
        ("transport", testing.check_transport),
    ):
        if hasattr(method, part):
            check(getattr(method, part))


# ------------------------------------------------------------------------------------------------------- wrong draws


@dataclass(frozen=True)
class Transposed:
    def __call__(self, C, D, generator):
        return torch.randn(D, C, generator=generator)


@dataclass(frozen=True)
class Double:
    def __call__(self, C, D, generator):
        return torch.randn(C, D, generator=generator, dtype=torch.float64)


@dataclass(frozen=True)
class Global:
    def __call__(self, C, D, generator):
        return torch.randn(C, D)


@dataclass(frozen=True)
class PythonRandom:
    def __call__(self, C, D, generator):
        return torch.full((C, D), random.random())


@dataclass(frozen=True)
class Expanded:
    def __call__(self, C, D, generator):
        return torch.randn(C, 1, generator=generator).expand(C, D)


@dataclass(frozen=True)
class Infinite:
    def __call__(self, C, D, generator):
        return torch.full((C, D), float("inf"))


@dataclass(frozen=True)
class Counted:
    calls: list = field(default_factory=list)

    def __call__(self, C, D, generator):
        self.calls.append(C)
        return torch.full((C, D), float(len(self.calls)))


CACHE = {}


@dataclass(frozen=True)
class Cached:
    def __call__(self, C, D, generator):
        return CACHE.setdefault((C, D), torch.ones(C, D))


@dataclass(frozen=True)
class Never:
    def __call__(self, C, D, generator):
        raise ValueError("needs 17 columns")


class Plain:
    def __call__(self, C, D, generator):
        return torch.zeros(C, D)


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (Transposed(), r"Transposed of 5 x 7 has shape \(7, 5\), but must have \(5, 7\)"),
        (Double(), "is torch.float64, but must be torch.float32"),
        (Global(), "draws from a global random state"),
        (PythonRandom(), "draws from a global random state"),
        (Expanded(), "entries must have memory of their own"),
        (Infinite(), "not finite"),
        (Counted(), "differs for the same seed"),
        (Cached(), "the same memory at each call"),
        (Never(), r"refuses all of .*\(needs 17 columns\)"),
        (Plain(), "prints an address"),
        (lambda C, D, generator: torch.zeros(C, D), "does not pickle"),
    ],
    ids=lambda one: type(one).__name__ if not isinstance(one, str) else "",
)
def test_wrong_draws(draw, says):
    refused(testing.check_draw, draw, says=says)


def test_a_draw_of_certain_sizes_passes_with_them():
    testing.check_draw(draws.CartesianProduct((-1.0, 1.0, 0.5, 2.0)), sizes=[(2, 16)])


# ---------------------------------------------------------------------------------------------------- wrong feedback


@dataclass(frozen=True)
class Signs(Fixed):
    homogeneous = True

    def project(self, lesson, parts):
        return super().project(lesson, parts).sign()


@dataclass(frozen=True)
class Centred(Fixed):
    homogeneous = True

    def project(self, lesson, parts):
        teaching = super().project(lesson, parts)
        return teaching - teaching.mean(0)


@dataclass(frozen=True)
class Flat(Fixed):
    def project(self, lesson, parts):
        return super().project(lesson, parts).flatten()


@dataclass(frozen=True)
class Overwriting(Fixed):
    def project(self, lesson, parts):
        return super().project(dataclasses.replace(lesson, signal=lesson.signal.mul_(2)), parts)


@dataclass(frozen=True)
class Growing(Fixed):
    def project(self, lesson, parts):
        parts[0].mul_(1.1)
        return super().project(lesson, parts)


@dataclass(frozen=True)
class Noisy(Fixed):
    def project(self, lesson, parts):
        teaching = super().project(lesson, parts)
        return teaching + torch.randn_like(teaching)


@dataclass(frozen=True)
class Remembering(Fixed):
    calls: list = field(default_factory=list)

    def project(self, lesson, parts):
        self.calls.append(1)
        return super().project(lesson, parts) * len(self.calls)


@dataclass(frozen=True)
class Elsewhere(Fixed):
    def init(self, ports, generator):
        return [(torch.zeros(port.outputs, *port.shape, dtype=port.dtype),) for port in ports]


@dataclass(frozen=True)
class FullPrecision(Fixed):
    def init(self, ports, generator):
        return [tuple(part.double() for part in parts) for parts in super().init(ports, generator)]


@dataclass(frozen=True)
class OnePort(Fixed):
    def init(self, ports, generator):
        return super().init(ports[:1], generator)


@dataclass(frozen=True)
class Blind(Fixed):
    """Needs float64 signals."""

    def project(self, lesson, parts):
        return (lesson.signal @ parts[0].flatten(1).to(lesson.signal)).view(-1, *lesson.port.shape).to(torch.float16)


@dataclass(frozen=True)
class FlatMatrix(Fixed):
    def matrix(self, port, parts):
        return parts[0].flatten(1)


@dataclass(frozen=True)
class WrongLesson(Matrix):
    learns = True
    sees = Sees.ACTIVITY

    def gradient(self, lesson, parts):
        return (lesson.signal.T @ lesson.activity.flatten(1),)


@dataclass(frozen=True)
class NoisyLesson(Matrix):
    learns = True

    def gradient(self, lesson, parts):
        return (torch.randn_like(parts[0]),)


@dataclass(frozen=True)
class TooMany(Matrix):
    learns = True

    def gradient(self, lesson, parts):
        return (parts[0], parts[0])


@pytest.mark.parametrize(
    ("feedback", "says"),
    [
        (Signs(), r"Signs says that it is homogeneous, but 0\.000976562 times the signal .* differ by 1e\+03"),
        (Centred(), "mixes samples: rows 2 to 4 alone are taught otherwise.* differ by"),
        (Flat(), r"the teaching of Flat\.project has shape \(42,\), but must have \(6, 7\)"),
        (Overwriting(), r"writes over a tensor of shape \(6, 5\)|answers differently"),
        (Growing(), r"writes over a tensor of shape \(5, 7\)|answers differently"),
        (Noisy(), "answers differently when it is called again|global random state"),
        (Remembering(), "answers differently when it is called again"),
        (Elsewhere(), "on cpu, but the port is on meta"),
        (FullPrecision(), "returns torch.float64, but the port asks for torch.float32"),
        (OnePort(), "for 1 ports, but there are 3"),
        (Blind(), "is torch.float16, but must be torch.float64"),
        (FlatMatrix(), r"FlatMatrix\.matrix has shape \(5, 12\), but must have \(5, 4, 3\)"),
        (WrongLesson(), r"a gradient of WrongLesson\.gradient has shape \(5, 12\), but must have \(5, 4, 3\)"),
        (NoisyLesson(), "answers differently|global random state"),
        (TooMany(), "returns 2 tensors for 1 parts"),
        (Gated(gate=lambda h: h), "does not pickle"),
    ],
    ids=lambda one: type(one).__name__ if not isinstance(one, str) else "",
)
def test_wrong_feedback(feedback, says):
    refused(testing.check_feedback, feedback, says=says)


def test_a_rule_that_does_not_claim_to_be_homogeneous_passes():
    testing.check_feedback(Honest())
    testing.check_method(Direct(paper=PAPER, feedback=Honest()))


@dataclass(frozen=True)
class Honest(Fixed):
    def project(self, lesson, parts):
        return super().project(lesson, parts).sign()


# ----------------------------------------------------------------------------------------------------- wrong signals


@dataclass(frozen=True)
class Undeclared(LossGradient):
    def __call__(self, step):
        return step.gradient * step.output


@dataclass(frozen=True)
class Mean(LossGradient):
    def __call__(self, step):
        return step.gradient - step.gradient.mean(0)


@dataclass(frozen=True)
class Summed(LossGradient):
    def __call__(self, step):
        return step.gradient.sum(1)


@dataclass(frozen=True)
class Claimed(Wrapper):
    """A sign that says it grows with the loss: it would not be scaled."""

    scales = True

    def __call__(self, step):
        return self.signal(step).sign()


@dataclass(frozen=True)
class Denied(Wrapper):
    """A gradient that says it does not: it would be scaled twice."""

    scales = False

    def __call__(self, step):
        return self.signal(step)


@dataclass(frozen=True)
class GrowingTarget(Target):
    scales = True


@dataclass(frozen=True)
class InPlace(LossGradient):
    def __call__(self, step):
        return step.gradient.neg_()


@dataclass(frozen=True)
class Forgetful(Signal):
    needs = Needs.IDS | Needs.TARGET

    def __call__(self, step):
        return step.memory


@dataclass(frozen=True)
class Narrow(Delayed):
    def memory(self, outputs):
        return Memory(self.samples, 1, record=self.of.record, initial=self.initial)


def centred(record, target):
    return target - target.mean(0)


def batch_error(y, t):
    return y - t.mean(0)


def one_row(record, target):
    return target[:1]


@pytest.mark.parametrize(
    ("signal", "says"),
    [
        (Undeclared(), "Undeclared fails with what its needs name .gradient."),
        (Mean(), "Mean mixes samples: row 0 changes with the other rows: they differ by"),
        (Summed(), r"what Summed sends has shape \(6,\), but must have \(6, 5\)"),
        (Claimed(LossGradient()), "Claimed.scales is True, so 1024 times the gradient gives 1024 times the signal"),
        (Denied(LossGradient()), "Denied.scales is False, so the gradient's size is not seen; it is not so"),
        (GrowingTarget(), "says that it grows with the loss, but does not look at the gradient"),
        (InPlace(), "writes over a tensor|answers differently"),
        (Forgetful(), "must have a memory if, and only if, it needs ids"),
        (Narrow(16), "has 1 columns, not 5"),
        (Delayed(16, initial=centred), "initial mixes samples"),
        (Delayed(16, initial=one_row), r"what initial returns has shape \(1, 5\)"),
        (Delayed(16, of=OutputError(link=lambda y: y)), "does not pickle"),
    ],
    ids=lambda one: type(one).__name__ if not isinstance(one, str) else "",
)
def test_wrong_signals(signal, says):
    refused(testing.check_signal, signal, says=says)


def test_a_wrong_record():
    refused(testing.check_memory, batch_error, signals.untrained, says="record mixes samples")
    testing.check_memory(OutputError().record, signals.untrained)


# --------------------------------------------------------------------------------------------------- wrong transport


@dataclass(frozen=True)
class Alias(Transport):
    def init(self, weight, generator):
        return weight


@dataclass(frozen=True)
class Square(Transport):
    def init(self, weight, generator):
        return torch.zeros(len(weight), len(weight), dtype=weight.dtype)


@dataclass(frozen=True)
class ByNorm(Random):
    """Not of the parts of a packed layer."""

    def weight(self, weight, feedback):
        return feedback * weight.norm()


@dataclass(frozen=True)
class RedrawnInPlace(Random):
    random = True

    def redraw(self, weight, feedback, generator):
        return feedback.copy_(self.init(weight, generator))


@dataclass(frozen=True)
class Drifting(Random):
    def drift(self, weight, feedback, generator):
        return None, feedback


@dataclass(frozen=True)
class DriftingOff(Random):
    learned = True

    def drift(self, weight, feedback, generator):
        return None, feedback.sum()


@dataclass(frozen=True)
class Following(Random):
    follows = True


@dataclass(frozen=True)
class GlobalTransport(Transport):
    def init(self, weight, generator):
        return torch.rand_like(weight)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (Alias(), "returns the memory of W itself"),
        (Square(), r"has shape \(5, 5\), but must have \(5, 7\)"),
        (ByNorm(), "ByNorm.weight of some rows of W and B is not those rows of M"),
        (RedrawnInPlace(), r"an earlier pass may still wait for its backward\) writes over|answers differently"),
        (Drifting(), "returns gradients, but B is not learned"),
        (DriftingOff(), r"the dB of DriftingOff\.drift has shape \(\)"),
        (Following(), "follows the gradient of W, but its B is not learned"),
        (GlobalTransport(), "global random state|answers differently"),
    ],
    ids=lambda one: type(one).__name__ if not isinstance(one, str) else "",
)
def test_wrong_transport(wrong, says):
    refused(testing.check_transport, wrong, says=says)


@pytest.mark.parametrize("right", [Random(), transport.SignSymmetric()])
def test_right_transport(right):
    testing.check_transport(right)


# ------------------------------------------------------------------------------------------ wrong estimates, updates


def absolute(s, directions):
    return s.abs() / len(s)


def pooled(s, directions):
    return s.mean(1, keepdim=True).expand_as(s)


def transposed(s, directions):
    return s.T


def largest(s, directions):
    """1024 times the loss gives 1024 times this, but of a sum it is not the sum."""
    return s * (s.abs() == s.abs().amax(0))


@pytest.mark.parametrize(
    ("combine", "says"),
    [
        (absolute, r"c\(s \+ r\) is not c\(s\) \+ c\(r\)"),
        (largest, r"c\(s \+ r\) is not c\(s\) \+ c\(r\)"),
        (pooled, "mixes groups"),
        (transposed, r"has shape \(4, 3\), but must have \(3, 4\)"),
        (lambda s, directions: s, "does not pickle"),
    ],
)
def test_wrong_estimates(combine, says):
    refused(testing.check_combine, combine, says=says)


class Late(update.Update):
    """Collects, and forgets to step."""

    def apply(self, parameters, gradients):
        pass


class Doubled(update.Update):
    def apply(self, parameters, gradients):
        super().apply(parameters, [None if g is None else 2 * g for g in gradients])


class Leaving(update.Update):
    """Steps by `.grad`, and leaves its own there."""

    def apply(self, parameters, gradients):
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g
            if g is not None:
                p -= 0.1 * g


class Decaying(update.Update):
    def apply(self, parameters, gradients):
        super().apply(
            parameters, [torch.ones_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
        )


class PerGroup(torch.optim.SGD):
    """Its rate falls with the calls that it counts."""

    def step(self, closure=None):
        group = self.param_groups[0]
        group["calls"] = group.get("calls", 0) + 1
        group["lr"] = 0.1 / group["calls"]
        super().step(closure)


def sgd(ps):
    return torch.optim.SGD(ps, lr=0.1)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Late(sgd), "Late by blocks is not one optimizer.step.* differ by"),
        (lambda: Doubled(sgd), "Doubled by blocks is not one optimizer.step"),
        (lambda: Leaving(sgd), "Leaving does not leave .grad as it was"),
        (lambda: Decaying(sgd), "changes a parameter whose gradient is None|Decaying by blocks is not"),
        (lambda: update.Update(PerGroup, by_parameter=True), "Update by blocks is not one optimizer.step"),
        (lambda: torch.optim.SGD, "is no skipback.update.Update"),
    ],
)
def test_wrong_updates(make, says):
    refused(testing.check_update, make, says=says)
    testing.check_update(lambda: update.Update(PerGroup))


# ----------------------------------------------------------------------------------------------------- wrong methods


@dataclass(frozen=True)
class Warming(LossGradient):
    """Its size depends on the passes so far, of which `state_dict` knows nothing."""

    passes: list = field(default_factory=list)

    def __call__(self, step):
        self.passes.append(1)
        return step.gradient * len(self.passes)


@dataclass(frozen=True)
class OwnTarget(LossGradient):
    """A target in the place of the gradient, without a word of it: it does not see the loss's scale."""

    def __call__(self, step):
        return step.gradient.sign() / len(step.gradient)


@pytest.mark.parametrize(
    ("feedback", "signal", "says"),
    [
        (Signs(), LossGradient(), r"Direct on 'mlp': a loss times 1024, said by scale=, does not give 1024 times"),
        (Centred(), LossGradient(), "samples are mixed: .* the gradient of net"),
        (Fixed(), OwnTarget(), "a loss times 1024, said by scale="),
        (Fixed(), Mean(), "samples are mixed"),
        (Fixed(), Warming(), "equal seeds give other gradients"),
        (Fixed(Global()), LossGradient(), "attach draws from a global random state"),
        (Noisy(), LossGradient(), "a training pass draws from a global random state"),
        (Fixed(Never()), LossGradient(), "refuses all networks .mlp: needs 17 columns"),
        (Gated(gate=lambda h: torch.cos(h)), LossGradient(), "does not pickle"),
        (Fixed(Plain()), LossGradient(), "prints an address"),
    ],
    ids=lambda one: type(one).__name__ if not isinstance(one, str) else "",
)
def test_wrong_methods(feedback, signal, says):
    refused(testing.check_method, Direct(paper=PAPER, signal=signal, feedback=feedback), says=says)


class Halved(Fixed):
    """Its factor, found at the first use, is in no state."""

    def project(self, lesson, parts):
        vars(self).setdefault("first", lesson.signal.sign().mean())
        return super().project(lesson, parts) * vars(self)["first"]


def test_state_that_the_learner_does_not_know_is_caught():
    refused(testing.check_feedback, Halved(), says="Halved keeps something from call to call")
    refused(testing.check_method, Direct(paper=PAPER, feedback=Halved()), says="Direct keeps something from call")


class Wide(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(3, 17), nn.ReLU(), nn.Linear(17, testing.method.CLASSES))


def test_a_network_of_ones_own():
    testing.check_method(sb.dfa(), nets={"wide": (Wide, (3,))})

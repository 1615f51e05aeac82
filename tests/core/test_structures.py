"""Structures of feedback: each acts as the matrix that it shows, and stores what it says."""

import dataclasses
import subprocess
import sys
from dataclasses import dataclass

import nets
import pytest
import torch
import torch.nn.functional as F
from nets import batch, made

import skipback as sb
from skipback import draws, structures
from skipback.core.feedback import Fixed, Lesson, Sees
from skipback.core.records import PortSpec
from skipback.methods import dkp, fdfa, ldfa
from skipback.structures import (
    ConvShaped,
    Gated,
    Kronecker,
    LowRank,
    Normalised,
    PerPosition,
    Seeded,
    Sliced,
    UnitColumns,
    with_draw,
)

CPU = torch.device("cpu")
ALL = [
    Sliced(),
    Sliced(draws.UnitNorm(), rescale=True),
    LowRank(3),
    Kronecker(),
    ConvShaped(),
    ConvShaped(3),
    Seeded(),
    UnitColumns(),
    PerPosition(),
]
names = [repr(one).replace("Uniform(bound=None)", "") for one in ALL]


def port(*shape, outputs=5, name="a"):
    return PortSpec(name=name, shape=shape, outputs=outputs, dtype=torch.float64, device=CPU)


def rng(seed=1):
    return torch.Generator().manual_seed(seed)


def parts_of(feedback, *ports, seed=1):
    return feedback.init(list(ports), rng(seed))


@pytest.mark.parametrize("feedback", ALL, ids=names)
@pytest.mark.parametrize("shape", [(7,), (4, 6), (4, 5, 3), (2, 3, 4, 5)])
def test_it_acts_as_the_matrix_that_it_shows(feedback, shape):
    """project(s) = s @ matrix, for any s: it is linear, and of the port's shape."""
    here = port(*shape)
    (parts,) = parts_of(feedback, here)
    B = feedback.matrix(here, parts)
    assert B.shape == (5, *shape)
    assert B.dtype == torch.float64
    signal = torch.randn(9, 5, generator=rng(2), dtype=torch.float64)
    teaching = feedback.project(Lesson(port=here, signal=signal), parts)
    assert teaching.shape == (9, *shape)
    torch.testing.assert_close(teaching.flatten(1), signal @ B.flatten(1), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("feedback", ALL, ids=names)
def test_it_teaches_a_network(feedback):
    """Gradients of hidden blocks are those of fixed feedback with the same matrices; another seed, others."""
    x, t, _ = batch(nets.IMAGE)
    learner = sb.attach(made(nets.conv), sb.dfa(feedback=feedback), x, seed=3, show=None)
    dense = sb.attach(made(nets.conv), sb.dfa(), x, show=None)
    for name, B in learner.feedback.items():
        full = dense.feedback[name]  # what positions share stands at each of them
        full.copy_(B.reshape(*B.shape, *[1] * (full.dim() - B.dim())))
    for one in (learner, dense):
        F.cross_entropy(one(x), t).backward()
    assert nets.difference(nets.gradients(learner.net), nets.gradients(dense.net)) < 1e-12
    other = sb.attach(made(nets.conv), sb.dfa(feedback=feedback), x, seed=4, show=None)
    assert all(not torch.equal(B, other.feedback[name]) for name, B in learner.feedback.items())


@pytest.mark.parametrize("feedback", ALL, ids=names)
def test_it_is_restored_and_moves_with_the_learner(feedback):
    x, _, _ = batch(nets.IMAGE)
    first, second = (sb.attach(made(nets.conv), sb.dfa(feedback=feedback), x, seed=seed, show=None) for seed in (3, 4))
    second.load_state_dict(first.state_dict())
    for name, B in first.feedback.items():
        assert torch.equal(B, second.feedback[name])


@pytest.mark.parametrize("feedback", ALL, ids=names)
def test_its_matrix_is_shown_where_the_learner_was_moved_to(feedback):
    x, _, _ = batch(nets.IMAGE)
    learner = sb.attach(made(nets.conv), sb.dfa(feedback=feedback), x, show=None).to("meta")
    assert {B.device.type for B in learner.feedback.values()} == {"meta"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("feedback", [*ALL, Normalised(), Gated()], ids=[*names, "Normalised", "Gated"])
def test_it_teaches_in_another_precision(feedback, dtype):
    """A cast of the learner casts its feedback, and leaves the keys of `Seeded` alone."""
    x, t, _ = batch(nets.IMAGE)
    learner = sb.attach(made(nets.conv), sb.dfa(feedback=feedback), x, show=None)
    F.cross_entropy(learner(x), t).backward()
    exact = nets.gradients(learner.net)
    learner.to(dtype).zero_grad()
    F.cross_entropy(learner(x.to(dtype)), t).backward()
    for name, g in nets.gradients(learner.net).items():
        assert g.dtype == dtype
        assert F.cosine_similarity(g.flatten().double(), exact[name].flatten(), dim=0) > 0.99, name


def numbers(feedback, *ports):
    """How many numbers are stored for these ports."""
    parts = {id(part): part for port_parts in parts_of(feedback, *ports) for part in port_parts}
    return sum(part.numel() for part in parts.values())


def test_what_is_stored():
    """The table of the module, for ports of 4 x 5 x 3 and 7 units, and 5 outputs."""
    ports = port(4, 5, 3), port(7, name="b")
    assert numbers(Fixed(), *ports) == 5 * 60 + 5 * 7
    assert numbers(Sliced(), *ports) == 5 * 60
    assert numbers(LowRank(2), *ports) == 2 * (5 + 60) + 2 * (5 + 7)
    assert numbers(LowRank(99), port(9), port(3, name="b")) == 5 * (5 + 9) + 3 * (5 + 3)
    assert numbers(Kronecker(), *ports) == 5 * (4 + 15) + 5 * 7
    assert numbers(ConvShaped(3), *ports) == 5 * 4 * 9 + 5 * 7
    assert numbers(Seeded(), *ports) == 2


# --------------------------------------------------------------------------------------------------- one by one


def test_slices_are_columns_of_one_matrix():
    wide, narrow, same = parts_of(Sliced(), port(8), port(2, 3, name="b"), port(8, name="c"))
    assert wide[0] is narrow[0] is same[0]
    assert torch.equal(Sliced().matrix(port(2, 3), narrow).flatten(1), wide[0][:, :6])


def test_rescaled_slices_have_the_expected_norm_of_one():
    """E |B_l|^2 = 1 for every width: within 5 standard errors over 200 draws."""
    feedback = Sliced(draws.UnitNorm(), rescale=True)
    ports = [port(40), port(10, name="b")]
    squares = torch.zeros(200, 2, dtype=torch.float64)
    for seed in range(200):
        for k, parts in enumerate(parts_of(feedback, *ports, seed=seed)):
            squares[seed, k] = feedback.matrix(ports[k], parts).square().sum()
    for k, width in enumerate((40, 10)):
        error = (2 / (5 * width)) ** 0.5 / 200**0.5  # of a mean of chi-squared sums
        assert abs(squares[:, k].mean() - 1) < 5 * error


def test_slices_for_ports_with_other_outputs_are_apart():
    """A sequence net may have ports with and without positions."""
    first, second = parts_of(Sliced(), port(8, outputs=5), port(9, outputs=15, name="b"))
    assert first[0].shape == (5, 8)
    assert second[0].shape == (15, 9)


@pytest.mark.parametrize(("rank", "expected"), [(1, 1), (3, 3), (50, 5)])
def test_low_rank(rank, expected):
    (parts,) = parts_of(LowRank(rank), port(9))
    assert torch.linalg.matrix_rank(LowRank(rank).matrix(port(9), parts)) == expected
    with pytest.raises(ValueError, match="the rank must be 1 or more, got 0"):
        LowRank(0)


@pytest.mark.parametrize("feedback", [LowRank(4), Kronecker(), Fixed(draws.Gaussian())], ids=repr)
def test_entries_have_variance_one_over_d(feedback):
    """So that a structure can be exchanged for another without another learning rate."""
    here = port(6, 5)
    entries = torch.stack([feedback.matrix(here, parts_of(feedback, here, seed=s)[0]) for s in range(400)])
    assert float(entries.var()) == pytest.approx(1 / 30, rel=0.1)
    assert abs(float(entries.mean())) < 0.01


def test_kronecker_is_channels_times_places():
    here = port(3, 2, 2)
    ((A, S),) = parts_of(Kronecker(), here)
    B = Kronecker().matrix(here, (A, S))
    for c in range(5):
        torch.testing.assert_close(B[c].flatten(1), torch.outer(A[c], S[c]))


def test_a_kernel_of_one_teaches_every_place_the_same():
    here = port(3, 4, 4)
    ((K,),) = parts_of(ConvShaped(), here)
    B = ConvShaped().matrix(here, (K,))
    assert torch.equal(B, K.expand(5, 3, 4, 4))


def test_a_wider_kernel_differs_at_the_border_only():
    here = port(3, 6, 6)
    ((K,),) = parts_of(ConvShaped(3), here)
    B = ConvShaped(3).matrix(here, (K,))
    inner = K.sum((2, 3))
    torch.testing.assert_close(B[:, :, 1:-1, 1:-1], inner[:, :, None, None].expand(5, 3, 4, 4))
    torch.testing.assert_close(B[:, :, 0, 0], K[:, :, 1:, 1:].sum((2, 3)))


def test_kernels_are_odd_and_space_has_three_dimensions():
    with pytest.raises(ValueError, match="the kernel must be odd, 1 or more, got 2"):
        ConvShaped(2)
    with pytest.raises(ValueError, match=r"port 'a' .* has more than three dimensions of space"):
        parts_of(ConvShaped(), port(2, 3, 3, 3, 3))


def test_seeded_feedback_looks_drawn():
    """Uniform on (-1/sqrt D, 1/sqrt D): mean, variance, tails, and no correlation of rows, columns or ports."""
    ports = port(64, outputs=100), port(64, outputs=100, name="b")
    found = [8 * Seeded().matrix(p, parts) for p, parts in zip(ports, parts_of(Seeded(), *ports), strict=True)]
    for B in found:
        assert abs(float(B.mean())) < 5 * (1 / 3 / B.numel()) ** 0.5
        assert float(B.var()) == pytest.approx(1 / 3, rel=0.05)
        assert 0.999 < float(B.abs().max()) <= 1
        histogram = torch.histc(B.float(), 16, -1, 1) / B.numel()
        assert (histogram - 1 / 16).abs().max() < 5 * (1 / 16 / B.numel()) ** 0.5
        for matrix in (B, B.T):
            others = torch.corrcoef(matrix).fill_diagonal_(0)
            assert others.abs().max() < 6 / matrix.shape[1] ** 0.5
    assert abs(float((found[0] * found[1]).mean())) < 5 / 3 / found[0].numel() ** 0.5


def fmix32(x):
    """The finaliser in plain integers."""
    x = (x ^ (x >> 16)) * 0x85EBCA6B % 2**32
    x = (x ^ (x >> 13)) * 0xC2B2AE35 % 2**32
    return x ^ (x >> 16)


def test_seeded_feedback_is_a_hash_of_place_and_key():
    """To the last bit, so that any device makes the same."""
    here, key = port(4, 2), 0xDEADBEEF
    B = Seeded().matrix(here, (torch.tensor(key),))
    expected = [(fmix32(place ^ fmix32(key)) / 2**31 - 1) * 8**-0.5 for place in range(40)]
    assert B.flatten().tolist() == expected


def test_the_hash_is_murmurs_finaliser():
    """Known values of fmix32."""
    from skipback.structures import _mixed

    assert _mixed(torch.tensor([0, 1, 2, 0xFFFFFFFF])).tolist() == [0, 0x514E28B7, 0x30F4C306, 0x81F16F39]


def test_with_draw_changes_how_a_feedback_starts():
    ones = draws.Constant(1.0)
    for feedback in (Fixed(), Sliced(), ConvShaped(), Normalised(), Gated(), UnitColumns(), ldfa.Subspace()):
        (parts,) = parts_of(with_draw(feedback, ones), port(4))
        assert len(parts[-1].unique()) == 1
    for feedback in (LowRank(), Kronecker(), Seeded()):
        with pytest.raises(ValueError, match=f"{type(feedback).__name__} feedback has no choice of draw"):
            with_draw(feedback, ones)


# ----------------------------------------------------------------------------------------------------- wrappers


def test_a_wrapper_looks_at_what_its_inner_feedback_looks_at():
    inner = fdfa.MeanJacobian(tangents=3)
    for wrap in (Normalised, Gated):
        assert wrap(inner).learns
        assert wrap(inner).tangents == 3
        assert Sees.JACOBIAN in wrap(inner).sees
    assert Gated(inner).sees == Sees.JACOBIAN | Sees.ACTIVITY
    assert Normalised(dkp.Correlation()).sees == Sees.ACTIVITY


def test_a_wrapper_shows_the_matrix_of_its_inner_feedback():
    """Whose rows are not what a signal of one output is taught: there the norm is 1."""
    here = port(7)
    (parts,) = parts_of(Fixed(), here)
    assert torch.equal(Normalised(Fixed()).matrix(here, parts), parts[0])


@pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 2.0**-13), (torch.float32, 2.0**-60)])
def test_normalised_teaching_of_small_errors(dtype, size):
    """|m| = |s|, however small both are: their product would be 0 in half precision."""
    here = port(7)
    (parts,) = parts_of(UnitColumns(), here)
    parts = tuple(part.to(dtype) for part in parts)
    large = torch.randn(9, 5, generator=rng(2), dtype=torch.float64).to(dtype)
    found, expected = (
        Normalised(UnitColumns()).project(Lesson(port=here, signal=s), parts).double() for s in (large * size, large)
    )
    torch.testing.assert_close(found / size, expected, rtol=1e-2, atol=1e-2)


def test_a_gate_is_computed_in_the_precision_of_the_feedback():
    """Under autocast a port holds half precision, in which a cosine has three digits."""
    here = port(7)
    (parts,) = parts_of(Fixed(), here)
    h = (10 * torch.randn(9, 7, generator=rng(3))).bfloat16()
    signal = torch.randn(9, 5, generator=rng(2), dtype=torch.float64)
    found = Gated().project(Lesson(port=here, signal=signal, activity=h), parts)
    torch.testing.assert_close(found, signal @ parts[0] * torch.cos(h.double()), rtol=1e-12, atol=1e-14)


# ----------------------------------------------------------------------------------- one row for each position


@dataclass(frozen=True)
class SharedCorrelation(dkp.Correlation):
    """Learned feedback that all positions share."""

    shares_positions = True


def test_which_structures_share_positions():
    assert PerPosition().shares_positions
    assert Normalised(PerPosition()).shares_positions
    assert SharedCorrelation().shares_positions
    assert not any(one.shares_positions for one in [*ALL[:-1], Fixed(), Normalised(), Gated()])


@pytest.mark.parametrize("positions", [1, 4, 9])
def test_rows_of_any_number_have_the_same_matrix(positions):
    """What the engine does: the positions of N samples are N T rows, each with the signal of its sample."""
    here, N = port(6), 3
    (parts,) = parts_of(PerPosition(), here)
    assert parts[0].shape == (5, 6)
    assert PerPosition().matrix(here, parts) is parts[0]
    signal = torch.randn(N, 5, generator=rng(2), dtype=torch.float64)
    rows = signal.repeat_interleave(positions, 0)
    teaching = PerPosition().project(Lesson(port=here, signal=rows), parts).reshape(N, positions, 6)
    expected = (signal @ parts[0]).unsqueeze(1).expand(N, positions, 6)
    torch.testing.assert_close(teaching, expected, rtol=1e-12, atol=1e-14)


def test_learned_feedback_on_rows_gets_the_sum_over_positions():
    """dB = sum over samples and positions of e_n h_nt^T, plus the decay."""
    here, N, T = port(6), 3, 4
    feedback = SharedCorrelation(decay=0.1)
    (parts,) = parts_of(feedback, here)
    e = torch.randn(N, 5, generator=rng(2), dtype=torch.float64)
    h = torch.randn(N, T, 6, generator=rng(3), dtype=torch.float64)
    lesson = Lesson(port=here, signal=e.repeat_interleave(T, 0), activity=h.reshape(N * T, 6))
    (found,) = feedback.gradient(lesson, parts)
    torch.testing.assert_close(found, torch.einsum("nc,ntd->cd", e, h) + 0.1 * parts[0], rtol=1e-12, atol=1e-14)


# ------------------------------------------------------------------------------------- c > 0 times the signal


def test_which_structures_are_homogeneous():
    own = [*ALL, Fixed(), Normalised(), Gated(), dkp.Correlation(), fdfa.MeanJacobian(), ldfa.Subspace()]
    assert all(one.homogeneous for one in own)
    assert not Normalised(Signs()).homogeneous
    assert not Gated(Signs()).homogeneous


class Signs(Fixed):
    """A user's rule that is not homogeneous, made from one that is."""

    def project(self, lesson, parts):
        return super().project(lesson, parts).sign()


class Mixin:
    def project(self, lesson, parts):
        return lesson.signal.sign() @ parts[0]


class Mixed(Mixin, Fixed):
    pass


class Doubled(Fixed):
    homogeneous = True

    def project(self, lesson, parts):
        return 2 * super().project(lesson, parts)


class Other(Doubled):
    """Another start, and the same rule."""

    def init(self, ports, generator):
        return super().init(ports, generator)


def test_whoever_projects_in_another_way_must_say_so_again():
    """The trap: what is derived from a matrix would be taken for linear in silence."""
    assert not Signs().homogeneous
    assert not Mixed().homogeneous
    assert Doubled().homogeneous
    assert Other().homogeneous


@pytest.mark.parametrize("stepped", [False, True])
@pytest.mark.parametrize("make", [sb.dfa, sb.drtp])
@pytest.mark.parametrize("scale", [1024.0, 0.25, torch.tensor(65536.0)])
def test_a_rule_that_is_not_homogeneous_is_right_under_a_scaled_loss(scale, make, stepped):
    """Signs of a scaled error are those of the error: without care the gradient is a thousandth of the right one."""
    x, t, _ = batch()
    method = make(feedback=Signs())
    found = []
    for factor in (1.0, scale):
        learner = sb.attach(made(nets.mlp), method, x, show=None)
        if stepped:
            update = sb.update.sgd(1.0 / float(factor), inside=False)
            learner.step(x, t, loss=F.cross_entropy, update=update, scale=factor)
            found.append(learner.net.state_dict())
        else:
            (factor * F.cross_entropy(learner(x, target=t, scale=factor), t)).backward()
            found.append({name: g / factor for name, g in nets.gradients(learner.net).items()})
    assert nets.difference(*found) < 1e-12


# ------------------------------------------------------------------------------------------------ large ports


def test_seeded_feedback_in_pieces_is_the_same(monkeypatch):
    here, signal = port(5, 7), torch.randn(9, 5, generator=rng(2), dtype=torch.float64)
    (parts,) = parts_of(Seeded(), here)
    whole, matrix = Seeded().project(Lesson(port=here, signal=signal), parts), Seeded().matrix(here, parts)
    for piece in (1, 8, 35, 70):
        monkeypatch.setattr(structures, "PIECE", piece)
        found = Seeded().project(Lesson(port=here, signal=signal), parts)
        torch.testing.assert_close(found, whole, rtol=1e-12, atol=1e-14)
        assert torch.equal(Seeded().matrix(here, parts), matrix)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_pieces_are_summed_in_full_precision(dtype, monkeypatch):
    here = dataclasses.replace(port(3, outputs=4096), dtype=dtype)
    signal = torch.randn(2, 4096, generator=rng(2))
    (parts,) = parts_of(Seeded(), here)
    exact = signal.to(dtype).double() @ Seeded().matrix(here, parts).double()
    monkeypatch.setattr(structures, "PIECE", 48)
    found = Seeded().project(Lesson(port=here, signal=signal), parts)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)


PEAK = """
import resource, sys, torch
from torch import nn
import skipback as sb
from skipback.core.feedback import Lesson
from skipback.structures import LowRank, Seeded
from skipback.core.records import PortSpec

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

torch.set_num_threads(1)
warm = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Tanh(), nn.Conv2d(4, 2, 1))
sb.attach(warm, sb.dfa(), torch.ones(1, 3, 4, 4), show=None)
nn.Linear(64, 64)(torch.ones(8, 64)).sum().backward()
"""


def mebibytes(script):
    """What a process takes at its peak beyond what it had after the imports, as the script measures it."""
    found = subprocess.run([sys.executable, "-c", PEAK + script], capture_output=True, text=True, check=True)
    return float(found.stdout)


@pytest.mark.parametrize("shape", [(10_000, 1_000), (10, 1_000_000)])
def test_seeded_feedback_of_ten_million_entries_takes_little_memory(shape):
    """The matrix alone would take 40 MiB, and the hash of all of it 400."""
    C, D = shape
    script = f"""
spec = PortSpec(name="a", shape=({D},), outputs={C}, dtype=torch.float32, device=torch.device("cpu"))
(parts,) = Seeded().init([spec], torch.Generator().manual_seed(1))
signal = torch.randn(2, {C})
before = peak()
assert Seeded().project(Lesson(port=spec, signal=signal), parts).shape == (2, {D})
print(peak() - before)
"""
    assert mebibytes(script) < 50


@pytest.mark.parametrize("feedback", ["LowRank(4)", "Seeded()"])
def test_a_large_dense_output_attaches_in_little_memory(feedback):
    """The matrix, of which the table needs the shape alone, has 2 x 96^2 x 16 x 96^2 entries: ten gigabytes."""
    script = f"""
net, x = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.Tanh(), nn.Conv2d(16, 2, 1)), torch.randn(1, 3, 96, 96)
net(x).sum().backward()
before = peak()
table = []
sb.attach(net, sb.dfa(feedback={feedback}), example=x, show=table.append)
assert "x 96 x 96" in table[0]
print(peak() - before)
"""
    assert mebibytes(script) < 50

"""Every draw against its definition: entry by entry where it is deterministic, by support and moments where not.

Bounds of the random ones are five standard deviations of the estimate, at fixed seeds.
"""

import dataclasses
import inspect
import itertools
import math

import pytest
import torch

from skipback import draws
from skipback.core.feedback import Fixed, Lesson
from skipback.core.records import PortSpec

ALL = {name: cls for name, cls in vars(draws).items() if dataclasses.is_dataclass(cls) and inspect.isclass(cls)}
BIG = (50, 400)
"""20,000 entries."""


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def by_hand(C, D, entry):
    return torch.tensor([[float(entry(c, j)) for j in range(D)] for c in range(C)])


def size_for(name, C=3):
    return 3**C if name == "CartesianProduct" else 10


# -------------------------------------------------------------------------------------------- what all of them keep


@pytest.mark.parametrize("name", ALL)
def test_shape_dtype_and_device(name):
    D = size_for(name)
    B = ALL[name]()(3, D, rng())
    assert B.shape == (3, D)
    assert B.dtype == torch.float32
    assert B.device.type == "cpu"
    assert B.is_contiguous()
    assert B.isfinite().all()


@pytest.mark.parametrize("name", ALL)
def test_same_seed_same_bits(name):
    D = size_for(name)
    assert torch.equal(ALL[name]()(3, D, rng(7)), ALL[name]()(3, D, rng(7)))


@pytest.mark.parametrize("name", ALL)
def test_the_global_generator_is_left_alone(name):
    before = torch.get_rng_state()
    ALL[name]()(3, size_for(name), rng())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "name", ["DiscreteUniform", "KaimingUniform", "RepeatLine", "Gaussian", "Uniform", "Orthogonal", "Sparse"]
)
def test_random_draws_differ_by_seed_and_from_one_port_to_the_next(name):
    generator = rng(7)
    first, second = (ALL[name]()(3, 40, generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert not torch.equal(first, ALL[name]()(3, 40, rng(8)))


@pytest.mark.parametrize("name", ALL)
def test_entries_may_be_written_one_by_one(name):
    """No entry shares memory with another one (`expand` would)."""
    B = ALL[name]()(3, size_for(name), rng())
    before = B.clone()
    B[1, 2] += 5
    before[1, 2] += 5
    assert torch.equal(B, before)


# ---------------------------------------------------------------------------------------------- deterministic ones


@pytest.mark.parametrize("D", [1, 2, 7, 12])
@pytest.mark.parametrize("s", [1.0, 0.25])
def test_constant(D, s):
    assert torch.equal(draws.Constant(s)(3, D, rng()), by_hand(3, D, lambda c, j: s))


@pytest.mark.parametrize("D", [1, 2, 7, 12])
@pytest.mark.parametrize("s", [1.0, 0.25])
def test_alternate_negative(D, s):
    assert torch.equal(draws.AlternateNegative(s)(3, D, rng()), by_hand(3, D, lambda c, j: -s if j % 2 == 0 else s))


@pytest.mark.parametrize("D", [1, 2, 7, 12])
@pytest.mark.parametrize("s", [1.0, 0.25])
def test_chunked_negative(D, s):
    expected = by_hand(3, D, lambda c, j: s if j < math.floor(D / 2) else -s)
    assert torch.equal(draws.ChunkedNegative(s)(3, D, rng()), expected)


@pytest.mark.parametrize(("C", "values"), [(1, (-1.0, 0.0, 1.0)), (2, (-1.0, 0.0, 1.0)), (3, (0.0, 1.0)), (2, (5.0,))])
@pytest.mark.parametrize("s", [1.0, 0.25])
def test_cartesian_product(C, values, s):
    columns = list(itertools.product(values, repeat=C))  # the first varies slowest
    expected = by_hand(C, len(columns), lambda c, j: s * columns[j][c])
    assert torch.equal(draws.CartesianProduct(values, s)(C, len(columns), rng()), expected)


def test_cartesian_product_lets_the_first_output_vary_slowest():
    B = draws.CartesianProduct((-1.0, 1.0))(2, 4, rng())
    assert B.tolist() == [[-1, -1, 1, 1], [-1, 1, -1, 1]]


@pytest.mark.parametrize("D", [8, 10, 27])
def test_cartesian_product_refuses_another_width(D):
    with pytest.raises(ValueError, match=rf"has 9 columns, but the port has {D} units"):
        draws.CartesianProduct()(2, D, rng())


@pytest.mark.parametrize("D", [2, 3, 7, 12])
def test_identity_fill_zero(D):
    assert torch.equal(draws.IdentityFillZero()(3, D, rng()), by_hand(3, D, lambda c, j: c == j))


@pytest.mark.parametrize("D", [2, 3, 7, 12])
def test_identity_repeat(D):
    assert torch.equal(draws.IdentityRepeat()(3, D, rng()), by_hand(3, D, lambda c, j: j % 3 == c))


@pytest.mark.parametrize("D", [2, 3, 5, 6, 7, 12, 13])
def test_identity_repeat_pm(D):
    def entry(c, j):
        return (1 if j % 6 < 3 else -1) * (j % 3 == c)

    assert torch.equal(draws.IdentityRepeatPM()(3, D, rng()), by_hand(3, D, entry))


# ------------------------------------------------------------------------------------------------------ random ones


def assert_uniform(B, bound):
    n = B.numel()
    assert B.abs().max() <= bound
    assert B.abs().max() > bound * (1 - 20 / n)  # the largest of n misses the bound by 1/n on average
    assert abs(B.mean().item()) < 5 * bound / math.sqrt(3 * n)
    # E[B^2] = b^2/3, and the variance of B^2 is b^4 (1/5 - 1/9)
    assert abs(B.double().square().mean().item() - bound**2 / 3) < 5 * bound**2 * math.sqrt((1 / 5 - 1 / 9) / n)


@pytest.mark.parametrize(("draw", "bound"), [(draws.Uniform(), 1 / math.sqrt(400)), (draws.Uniform(0.3), 0.3)])
def test_uniform(draw, bound):
    assert_uniform(draw(*BIG, rng()), bound)


@pytest.mark.parametrize(
    ("a", "bound"), [(math.sqrt(5), 1 / math.sqrt(400)), (0.0, math.sqrt(6 / 400)), (1.0, math.sqrt(3 / 400))]
)
def test_kaiming_uniform_fans_in_over_the_width_of_the_port(a, bound):
    assert_uniform(draws.KaimingUniform(a)(*BIG, rng()), bound)


def test_kaiming_uniform_defaults_to_the_f3_code():
    assert draws.KaimingUniform() == draws.KaimingUniform(math.sqrt(5))


@pytest.mark.parametrize("a", [math.sqrt(5), 0.0])
def test_kaiming_uniform_is_that_of_torch(a):
    """torch's own function on a (C, D) weight, as the published codes call it."""
    expected = torch.nn.init.kaiming_uniform_(torch.empty(7, 30), a=a, generator=rng(3))
    torch.testing.assert_close(draws.KaimingUniform(a)(7, 30, rng(3)), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("values", [(-1.0, 0.0, 1.0), (0.0, 1.0), (-2.0, 0.5, 3.0, 4.0)])
@pytest.mark.parametrize("s", [1.0, 0.25])
def test_discrete_uniform(values, s):
    B = draws.DiscreteUniform(values, s)(*BIG, rng())
    n, p = B.numel(), 1 / len(values)
    assert set(B.unique().tolist()) == {s * v for v in values}
    for v in values:
        count = (s * v == B).sum().item()
        assert abs(count - n * p) < 5 * math.sqrt(n * p * (1 - p)), v


def test_ternary_and_binomial():
    assert draws.ternary() == draws.DiscreteUniform((-1.0, 0.0, 1.0), 1.0)
    assert draws.binomial() == draws.DiscreteUniform((0.0, 1.0), 1.0)


def test_repeat_line():
    B = draws.RepeatLine()(400, 5, rng())
    assert torch.equal(B, B[:, :1].expand(400, 5))
    assert_uniform(B[:, 0], 1.0)


@pytest.mark.parametrize(("draw", "std"), [(draws.Gaussian(), 1 / math.sqrt(400)), (draws.Gaussian(0.3), 0.3)])
def test_gaussian(draw, std):
    z = draw(*BIG, rng()).double() / std
    n = z.numel()
    assert abs(z.mean().item()) < 5 / math.sqrt(n)
    assert abs(z.square().mean().item() - 1) < 5 * math.sqrt(2 / n)
    assert abs(z.pow(4).mean().item() - 3) < 5 * math.sqrt(96 / n)  # a uniform of this variance has 1.8


@pytest.mark.parametrize(("C", "D"), [(3, 8), (3, 3), (8, 3), (1, 5), (10, 500)])
@pytest.mark.parametrize("gain", [1.0, 2.0])
def test_orthogonal(C, D, gain):
    B = draws.Orthogonal(gain)(C, D, rng()).double()
    gram = B @ B.T if C <= D else B.T @ B
    torch.testing.assert_close(gram, gain**2 * torch.eye(min(C, D), dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("C", "D"), [(2, 6), (6, 2)])
def test_orthogonal_has_no_preferred_direction(C, D):
    """Over 500 seeds each entry has mean 0 and mean square 1/max(C, D). Bare QR factors have a fixed sign."""
    B = torch.stack([draws.Orthogonal()(C, D, rng(seed)) for seed in range(500)]).double()
    variance = 1 / max(C, D)
    assert B.mean(0).abs().max() < 5 * math.sqrt(variance / 500)
    assert (B.square().mean(0) - variance).abs().max() < 5 * math.sqrt(2 * variance**2 / 500)


@pytest.mark.parametrize("k", [1, 3, 50])
def test_sparse(k):
    C, D = BIG
    B = draws.Sparse(k)(C, D, rng()).double()
    assert ((B != 0).sum(0) == k).all()
    # each output is heard by k D / C units on average
    p = k / C
    assert ((B != 0).sum(1) - D * p).abs().max() <= 5 * math.sqrt(D * p * (1 - p)) + 1e-9
    # k D weights of variance C / (k D): their squares sum to C, with standard deviation C sqrt(2 / (k D))
    assert abs(B.square().sum().item() - C) < 5 * C * math.sqrt(2 / (k * D))


@pytest.mark.parametrize("k", [0, 4])
def test_sparse_refuses_what_is_not_there(k):
    with pytest.raises(ValueError, match="1 to 3 outputs"):
        draws.Sparse(k)(3, 8, rng())


# ------------------------------------------------------------------------------------------------ on their way in


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_fixed_feedback_has_the_shape_and_dtype_of_the_port(dtype):
    port = PortSpec(name="a", shape=(2, 3, 4), outputs=5, dtype=dtype, device=torch.device("cpu"))
    ((B,),) = Fixed(draws.Gaussian()).init([port], rng(3))
    assert B.shape == (5, 2, 3, 4)
    assert B.dtype == dtype
    assert torch.equal(B.flatten(1), draws.Gaussian()(5, 24, rng(3)).to(dtype))


def test_fixed_projection_is_a_product_with_the_flat_matrix():
    B, signal = torch.randn(5, 2, 3, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    expected = torch.einsum("nc,cpq->npq", signal, B)
    port = PortSpec(name="a", shape=(2, 3), outputs=5, dtype=B.dtype, device=B.device)
    teaching = Fixed().project(Lesson(port=port, signal=signal), (B,))
    torch.testing.assert_close(teaching, expected, rtol=1e-12, atol=1e-12)

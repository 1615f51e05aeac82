"""The per-sample memory: what stands in first, what is written, where it lives, and what it refuses."""

import copy
import pickle
from functools import partial

import nets
import pytest
import torch
from nets import batch, gradients, made, same, teach
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

import skipback as sb
from skipback import signals
from skipback.memory import CHECKED_VISITS, Memory
from skipback.signals import Delayed, OutputError, ScaledTarget

C = nets.C


def one_hot(t):
    return torch.eye(C, dtype=torch.float64)[t]


def f3(n=8, **options):
    """f3 on an MLP, with a float64 memory unless told."""
    options = {"dtype": torch.float64, **options}
    return sb.f3(memory=n, signal=Delayed(n, **options))


def attached(method=None, *, dtype=torch.float64, n=8, **options):
    x, t, ids = batch(n=n, dtype=dtype)
    return sb.attach(made(nets.mlp, dtype=dtype), method or f3(n, **options), x, show=None), x, t, ids


# ----------------------------------------------------------------------------------------------------- first visit


@pytest.mark.parametrize(
    ("initial", "expected"),
    [
        (signals.untrained, lambda t: 1 / C - t),
        (signals.minus_target, lambda t: -t),
        (signals.zeros, lambda t: 0 * t),
        (ScaledTarget(), lambda t: -t),
        (ScaledTarget(1 / 500), lambda t: -t / 500),
        (ScaledTarget(0.5, shift=1 / C), lambda t: -0.5 * (t - 1 / C)),
    ],
)
def test_initial_rows(initial, expected):
    learner, _, t, ids = attached(initial=initial)
    rows = learner.memory.read(ids, one_hot(t))
    torch.testing.assert_close(rows, expected(one_hot(t)), rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize(
    ("link", "expected"),
    [(signals.identity, lambda t: -t), (signals.sigmoid, lambda t: 0.5 - t), (signals.softmax, lambda t: 1 / C - t)],
)
def test_untrained_is_the_error_of_an_output_of_zeros(link, expected):
    learner, _, t, ids = attached(of=OutputError(link))
    assert torch.allclose(learner.memory.read(ids, one_hot(t)), expected(one_hot(t)), rtol=1e-15, atol=1e-15)


def test_rows_are_those_of_the_last_visit_and_initial_where_there_was_none():
    learner, x, t, ids = attached()
    y = teach(learner, x[2:5], t[2:5], ids[2:5])
    rows = learner.memory.read(ids, one_hot(t))
    expected = 1 / C - one_hot(t)
    expected[2:5] = torch.softmax(y, 1) - one_hot(t[2:5])
    assert torch.equal(rows, expected)
    assert learner.memory.seen.tolist() == [False, False, True, True, True, False, False, False]


def test_initial_rows_are_spared_once_every_sample_was_seen():
    learner, x, t, ids = attached()
    teach(learner, x, t, ids)
    learner.memory.initial = None  # would fail if called
    learner.memory.read(ids, one_hot(t))


def test_whether_all_were_seen_is_asked_again_only_after_as_many_visits(monkeypatch):
    """Each look is a pass over all samples, and a wait for the device."""
    memory, asked, ask = Memory(4, C, record=lambda y, t: y, initial=lambda record, t: t), [], torch.Tensor.all
    monkeypatch.setattr(torch.Tensor, "all", lambda self, *args: asked.append(len(self)) or ask(self, *args))
    rows, visits = torch.ones(1, C), [0, 1, 2, 0, 1, 2, 0, 1, 3, 0, 0, 0, 0]
    looks = []
    for i in visits:
        memory.read(torch.tensor([i]), rows)
        memory.write(torch.tensor([i]), 2 * rows, rows)
        looks.append(len(asked))
    assert looks == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3]  # at the second, sample 3 was about to be written
    assert memory.all_seen
    memory.read(torch.tensor([0]), rows)
    assert len(asked) == 3


def test_written_rows_use_the_weights_from_before_the_step():
    learner, x, t, ids = attached()
    y = teach(learner, x, t, ids)
    with torch.no_grad():
        for p in learner.parameters():
            p -= 0.5 * p.grad
    assert torch.equal(learner.memory.rows, torch.softmax(y, 1) - one_hot(t))


def test_a_step_teaches_by_the_rows_from_before_its_own_write():
    """One visit earlier, that is: with the rows just written it would be DFA."""
    learner, x, t, ids = attached()
    teach(learner, x, t, ids)
    first = gradients(learner.net)
    other, *_ = attached(initial=lambda record, target: 1 / C - target)
    teach(other, x, t, ids)
    assert same(first, gradients(other.net))
    learner.zero_grad()
    teach(learner, x, t, ids)
    assert not torch.equal(first["0.weight"], gradients(learner.net)["0.weight"])


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_ids_of_any_integer_type(dtype):
    learner, x, t, ids = attached()
    other = copy.deepcopy(learner)
    for _ in range(2):
        teach(learner, x, t, ids)
        teach(other, x, t, ids.to(dtype))
    assert same(gradients(learner.net), gradients(other.net))
    assert same(learner.memory.state_dict(), other.memory.state_dict())


# ------------------------------------------------------------------------------------------------- where it lives


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_of_the_rows(dtype):
    learner, x, t, ids = attached(f3(dtype=dtype), dtype=torch.float32)
    y = teach(learner, x, t, ids)
    assert learner.memory.rows.dtype == dtype
    expected = (torch.softmax(y, 1) - one_hot(t).float()).to(dtype)
    assert torch.equal(learner.memory.rows, expected)
    assert learner.memory.read(ids, one_hot(t).float()).dtype == torch.float32
    learner.zero_grad()
    teach(learner, x, t, ids)
    assert all(g.isfinite().all() for g in gradients(learner.net).values())


@pytest.mark.parametrize("cast", [nn.Module.half, nn.Module.bfloat16, nn.Module.double])
def test_a_cast_of_the_learner_leaves_the_rows_alone(cast):
    """To half and back would round them, and find every input changed."""
    learner, x, t, ids = attached(sb.f3(memory=8), dtype=torch.float32)
    teach(learner, x, t, ids)
    before = {name: value.clone() for name, value in learner.memory.state_dict().items()}
    cast(learner)
    assert same(before, learner.memory.state_dict())


def test_the_memory_follows_the_learner():
    learner, *_ = attached()
    learner.to("meta")
    assert learner.memory.rows.device.type == "meta"
    assert learner.memory.seen.device.type == "meta"


def test_the_memory_starts_where_the_network_is():
    learner = sb.attach(made(nets.mlp).to("meta"), f3(), batch()[0].to("meta"), show=None)
    assert learner.memory.rows.device.type == "meta"
    assert {B.device.type for B in learner.feedback.values()} == {"meta"}


def test_a_pinned_memory_stays():
    learner, *_ = attached(device=torch.device("cpu"))
    learner.to("meta")
    assert learner.memory.rows.device.type == "cpu"
    assert learner.net[0].weight.device.type == "meta"


def test_state_dict_brings_the_rows_and_the_views_back():
    learner, x, t, ids = attached()
    teach(learner, x[:4], t[:4], ids[:4])
    other, *_ = attached()
    other.load_state_dict(learner.state_dict())
    assert torch.equal(other.memory.read(ids, one_hot(t)), learner.memory.read(ids, one_hot(t)))
    with pytest.raises(ValueError, match="differs from its last visit"):
        teach(other, x[:4].flip(1), t[:4], ids[:4])


def test_loading_an_early_state_makes_unseen_samples_unseen_again():
    learner, x, t, ids = attached()
    early = {name: value.clone() for name, value in learner.state_dict().items()}
    teach(learner, x, t, ids)
    learner.memory.read(ids, one_hot(t))  # notices that all were seen
    learner.load_state_dict(early)
    assert torch.allclose(learner.memory.read(ids, one_hot(t)), 1 / C - one_hot(t))


# ------------------------------------------------------------------------------------------------ what it refuses


@pytest.mark.parametrize("bad", [8, 100, -1])
def test_ids_out_of_range(bad):
    learner, x, t, ids = attached()
    ids[3] = bad
    learner.memory.input_checks_left = 0
    with pytest.raises(IndexError, match=f"ids reach from {min(bad, 0)} to {max(bad, 7)}, but .* samples 0 to 7"):
        teach(learner, x, t, ids)


@pytest.mark.parametrize("bad", [8, -1])
def test_ids_out_of_range_at_the_first_step(bad):
    """The comparison of views comes first, and must not answer with an error of its own."""
    learner, x, t, ids = attached()
    ids[3] = bad
    with pytest.raises(IndexError, match="but the memory was made for samples 0 to 7"):
        teach(learner, x, t, ids)


IMAGE_CHANGES = {
    "shift": lambda x: x.roll(1, dims=-1),
    "flip": lambda x: x.flip(-1),
    "crop": lambda x: torch.nn.functional.pad(x, (2, 0, 0, 0))[..., :8],
    "brightness": lambda x: 1.1 * x,
    "noise": lambda x: x + 0.01 * torch.randn_like(x),
    "another sample": lambda x: x.roll(1, dims=0),
}


@pytest.mark.parametrize("change", IMAGE_CHANGES)
def test_another_view_of_a_sample(change):
    x, t, ids = batch(nets.IMAGE, dtype=torch.float32)
    learner = sb.attach(made(nets.conv, dtype=torch.float32), sb.f3(memory=8), x, show=None)
    teach(learner, x, t, ids)
    with pytest.raises(ValueError, match=r"the input of sample \d differs from its last visit.*augmentation"):
        teach(learner, IMAGE_CHANGES[change](x), t, ids)


def test_the_same_view_in_other_company():
    """Other order, other batch sizes, and the rounding that comes with them."""
    x, t, ids = batch(nets.IMAGE, dtype=torch.float32)
    learner = sb.attach(made(nets.conv, dtype=torch.float32), sb.f3(memory=8), x, show=None)
    for picks in ([0, 1, 2, 3], [4, 5, 6, 7], [7, 1, 4], [2], [0, 1, 2, 3, 4, 5, 6, 7], [3, 6]):
        teach(learner, x[picks], t[picks], ids[picks])
    teach(learner, x * (1 + 1e-6), t, ids)  # another device, another order of sums


def test_a_view_that_drifts_is_another_view_in_the_end():
    """Each visit is compared with the first one, not with the one before."""
    x, t, ids = batch(nets.IMAGE, dtype=torch.float32)
    learner = sb.attach(made(nets.conv, dtype=torch.float32), sb.f3(memory=8), x, show=None)
    with pytest.raises(ValueError, match="differs from its last visit"):  # noqa: PT012
        for visit in range(60):
            learner(x * (1 + 2e-5 * visit), target=t, ids=ids)
    assert visit > 2


def test_autocast_does_not_change_the_view():
    learner, x, t, ids = attached(sb.f3(memory=8), dtype=torch.float32)
    teach(learner, x, t, ids)
    with torch.autocast("cpu", torch.bfloat16):
        y = learner(x, target=t, ids=ids)
    assert y.dtype == torch.bfloat16
    assert learner.memory.fingerprints.dtype == torch.float32


def test_views_are_compared_for_a_limited_number_of_visits():
    learner, x, t, ids = attached()
    for _ in range(CHECKED_VISITS + 1):
        learner(x, target=t, ids=ids)
    assert learner.memory.input_checks_left == 0
    learner(x.flip(1), target=t, ids=ids)


def test_first_visits_do_not_use_up_the_comparisons():
    """One long epoch has no second visit: wrong ids show in the next one."""
    memory = Memory(500, C, record=OutputError().record, initial=signals.untrained)
    x, t = torch.randn(1, 6), torch.eye(C)[:1]
    for i in range(CHECKED_VISITS + 100):
        memory.check_views(torch.tensor([i]), x)
        memory.write(torch.tensor([i]), torch.zeros(1, C), t)
    assert memory.input_checks_left == CHECKED_VISITS
    with pytest.raises(ValueError, match="sample 0 differs"):
        memory.check_views(torch.tensor([0]), x + 1)


def test_evaluation_of_another_view_is_free():
    learner, x, t, ids = attached()
    teach(learner, x, t, ids)
    learner.eval()
    learner(x.flip(1), target=t)  # without ids it can only be an evaluation
    with pytest.raises(ValueError, match="differs from its last visit"):
        learner(x.flip(1), target=t, ids=ids)  # with them it is training in eval mode, as with frozen batch norm
    learner.train()
    with learner.exact():
        learner(x.flip(1), target=t, ids=ids)
    with torch.no_grad():
        learner(x.flip(1), target=t, ids=ids)


def test_token_inputs_are_not_compared():
    tokens = torch.randint(0, 11, (4, 5))
    learner = sb.attach(made(nets.Text, dtype=torch.float32), sb.f3(memory=4), tokens, show=None)
    for _ in range(2):
        teach(learner, tokens, torch.arange(4), torch.arange(4))


def test_rows_of_a_sequence():
    """Samples of T positions: a row has T V numbers, is read as T rows of V, and is initial where it was not seen."""
    memory = Memory(3, 6, record=lambda y, t: y - t, initial=lambda record, t: 10 * t)
    output, target = torch.arange(6.0).reshape(2, 3), torch.ones(2, 3)
    memory.write(torch.tensor([1]), output, target)
    assert memory.rows[1].tolist() == [-1, 0, 1, 2, 3, 4]
    found = memory.read(torch.tensor([1, 2]), torch.ones(4, 3))
    assert found.tolist() == [[-1, 0, 1], [2, 3, 4], [10] * 3, [10] * 3]
    with pytest.raises(ValueError, match=r"2 ids came with 18 numbers, but a sample has 6: .* sequences of one length"):
        memory.read(torch.tensor([1, 2]), torch.ones(6, 3))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda ids: ids.tolist(), "not a list"),
        (lambda ids: ids.double(), r"not shape \(8,\) and torch.float64"),
        (lambda ids: ids > 3, "torch.bool"),
        (lambda ids: ids[:, None], r"not shape \(8, 1\)"),
        (lambda ids: ids[1:], "7 ids came with 8"),
    ],
)
@pytest.mark.parametrize("stepped", [False, True])
def test_what_is_no_row_of_ids_is_refused(wrong, says, stepped):
    """Floating-point ids were cut to whole numbers in silence."""
    learner, x, t, ids = attached()
    step = partial(learner.step, t=t, loss=nn.functional.cross_entropy, update=sb.update.adam())
    with pytest.raises(ValueError, match=says):
        (step if stepped else partial(learner, target=t))(x, ids=wrong(ids))
    assert not learner.memory.seen.any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_ids_of_any_whole_type(dtype):
    learner, x, t, ids = attached()
    learner(x, target=t, ids=ids.to(dtype))
    assert learner.memory.seen.all()


# --------------------------------------------------------------------------------- plain tensors, saved as ever


KEYS = ["route.memory.rows", "route.memory.seen", "route.memory.prints"]


def visited():
    learner, x, t, ids = attached()
    teach(learner, x[:4], t[:4], ids[:4])
    return learner, x, t, ids


def test_nobody_takes_the_memory_for_buffers_and_all_find_it_in_the_state():
    """DDP would overwrite buffers of every process with those of rank 0."""
    learner, *_ = visited()
    assert not list(learner.memory.buffers())
    assert not list(learner.memory.parameters())
    state = learner.state_dict()
    assert [key for key in state if key.startswith("route.memory.")] == KEYS
    assert state["route.memory.rows"].data_ptr() == learner.memory.rows.data_ptr()
    assert learner.state_dict(keep_vars=True)["route.memory.seen"] is learner.memory.seen


@pytest.mark.parametrize("key", KEYS)
def test_a_state_without_a_tensor_of_the_memory_is_refused(key):
    learner, *_ = visited()
    state = learner.state_dict()
    del state[key]
    with pytest.raises(RuntimeError, match=f"Missing key.*{key}"):
        learner.load_state_dict(state)
    assert learner.load_state_dict(state, strict=False).missing_keys == [key]


def test_a_state_with_more_is_refused():
    learner, *_ = visited()
    state = {**learner.state_dict(), "route.memory.rest": torch.zeros(1), "route.memory.fingerprints": torch.zeros(8)}
    with pytest.raises(RuntimeError, match=r"Unexpected key.*route\.memory\.rest.*route\.memory\.fingerprints"):
        learner.load_state_dict(state)


def test_a_state_of_another_number_of_samples_is_refused():
    learner, *_ = visited()
    other, *_ = attached(f3(n=9))
    before = learner.memory.rows.clone()
    with pytest.raises(RuntimeError, match=r"size mismatch for route\.memory\.rows.*\[9, 5\].*\[8, 5\]"):
        learner.load_state_dict(other.state_dict())
    assert torch.equal(learner.memory.rows, before)


def test_tensors_are_assigned_where_that_is_asked_for():
    learner, _, t, ids = visited()
    other, *_ = attached()
    state = {key: value.clone() for key, value in learner.state_dict().items()}
    other.load_state_dict(state, assign=True)
    for key, tensor in zip(KEYS, other.memory.tensors, strict=True):
        assert tensor.data_ptr() == state[key].data_ptr()
    assert torch.equal(other.memory.read(ids, one_hot(t)), learner.memory.read(ids, one_hot(t)))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_has_a_memory_of_its_own(copied):
    learner, x, t, ids = visited()
    twin = copied(learner)
    assert same(learner.memory.state_dict(), twin.memory.state_dict())
    teach(learner, x, t, ids)
    assert not torch.equal(learner.memory.rows, twin.memory.rows)
    teach(twin, x, t, ids)
    assert same(learner.memory.state_dict(), twin.memory.state_dict())


def test_a_learner_that_is_built_without_memory_of_its_own_and_then_loaded():
    learner, _, t, ids = visited()
    empty = sb.attach(made(nets.mlp).to("meta"), f3(), batch()[0].to("meta"), show=None)
    empty.to_empty(device="cpu")
    assert not empty.memory.seen.any()
    empty.load_state_dict(learner.state_dict())
    assert torch.equal(empty.memory.read(ids, one_hot(t)), learner.memory.read(ids, one_hot(t)))


def test_tools_that_look_tensors_up_by_their_keys_find_them():
    """Torch's distributed checkpoints, and `functional_call`, which writes into the tensors that it is given."""
    learner, x, t, ids = visited()
    other, *_ = attached()
    set_model_state_dict(other, copy.deepcopy(get_model_state_dict(learner)))
    assert same(learner.memory.state_dict(), other.memory.state_dict())
    given = {key: value.clone() for key, value in learner.state_dict().items()}
    before = copy.deepcopy(learner.memory.state_dict())
    torch.func.functional_call(learner, given, (x,), {"target": t, "ids": ids})
    assert same(before, learner.memory.state_dict())
    assert given["route.memory.seen"].all()
    assert bool(given["route.memory.prints"].all())


# --------------------------------------------------------------------------------------- rows that were not taught


def tagged(samples=6, outputs=2):
    """A memory that stores the output, and reads -1 where a sample was not seen."""
    return Memory(samples, outputs, record=lambda y, t: y, initial=lambda record, t: torch.full_like(t, -1.0))


def row_of(memory, *ids):
    return memory.read(torch.tensor(ids), torch.zeros(len(ids), 2)).tolist()


def test_masked_rows_are_neither_written_nor_seen():
    memory = tagged()
    memory.write(torch.tensor([1]), torch.full((1, 2), 9.0), torch.zeros(1, 2))
    output = torch.arange(8.0).reshape(4, 2)
    mask = torch.tensor([False, True, False, True])
    memory.write(torch.tensor([0, 2, 1, 5]), output, torch.zeros(4, 2), mask)
    assert memory.seen.tolist() == [False, True, True, False, False, True]
    assert row_of(memory, 0, 1, 2, 3, 4, 5) == [[-1, -1], [9, 9], [2, 3], [-1, -1], [-1, -1], [6, 7]]


@pytest.mark.parametrize("mask", [[True, False], [False, True]])
def test_a_sample_that_comes_twice_and_is_taught_once_has_the_row_that_was_taught(mask):
    memory = tagged()
    memory.write(torch.tensor([3, 3]), torch.tensor([[1.0, 1.0], [2.0, 2.0]]), torch.zeros(2, 2), torch.tensor(mask))
    assert row_of(memory, 3) == [[1, 1]] if mask[0] else [[2, 2]]
    assert memory.seen.sum() == 1


@pytest.mark.parametrize("seen", [False, True])
def test_a_batch_of_which_no_row_was_taught_leaves_no_trace(seen):
    memory = tagged()
    if seen:
        memory.write(torch.arange(6), torch.full((6, 2), 4.0), torch.zeros(6, 2))
    before = {key: value.clone() for key, value in memory.state_dict().items()}
    memory.write(torch.tensor([0, 3]), torch.ones(2, 2), torch.zeros(2, 2), torch.tensor([False, False]))
    assert same(before, memory.state_dict())


def test_a_mask_of_ones_is_no_mask():
    one, other = tagged(), tagged()
    for memory, mask in ((one, None), (other, torch.ones(3, 1, dtype=torch.bool))):
        memory.write(torch.tensor([4, 0, 2]), torch.randn(3, 2, generator=torch.Generator().manual_seed(1)), None, mask)
    assert same(one.state_dict(), other.state_dict())


def test_masked_positions_of_a_sequence_keep_their_numbers():
    memory = Memory(3, 4, record=lambda y, t: y, initial=lambda record, t: t)
    ids, target = torch.tensor([0, 2]), torch.zeros(4, 2)
    memory.write(ids, torch.ones(4, 2), target)
    memory.write(ids, torch.full((4, 2), 5.0), target, torch.tensor([True, False, False, False]))
    assert memory.rows[[0, 2]].tolist() == [[5, 5, 1, 1], [1, 1, 1, 1]]


@pytest.mark.parametrize("mask", [torch.ones(3), torch.ones(5, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)])
def test_what_is_no_mask_is_refused(mask):
    memory = tagged()
    with pytest.raises(ValueError, match="mask must be boolean, one entry for each of 3 samples"):
        memory.write(torch.tensor([4, 0, 2]), torch.ones(3, 2), torch.zeros(3, 2), mask)
    assert not memory.seen.any()

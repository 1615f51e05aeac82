"""The audit against what is known of each method, and against learners that are broken on purpose."""

import dataclasses
import json

import nets
import pytest
import torch
import torch.nn.functional as F
from nets import batch, made
from torch import nn

import skipback as sb
from skipback.blocks import Pass
from skipback.blocks.paths import Reading
from skipback.measure import audit as module
from skipback.measure.words import table

QUESTIONS = ("moves", "exact", "weight_transport", "update_lock", "forward_lock", "target", "earlier_visits")
NETS = ("mlp", "conv", "functional_residual", "residual_modules", "batchnorm", "dropout", "inplace", "tuple_output")


def attached(method, build=nets.mlp, shape=nets.FLAT, *, dtype=torch.float64):
    x, t, ids = batch(shape, dtype=dtype)
    return sb.attach(made(build, dtype=dtype), method, x, show=None), x, t, ids


def audited(method, build=nets.mlp, shape=nets.FLAT, *, dtype=torch.float64):
    learner, x, t, ids = attached(method, build, shape, dtype=dtype)
    return sb.audit(learner, x, t, lambda y, t: F.cross_entropy(nets.logits(y), t), ids)


def answers(record):
    return "".join({True: "y", False: "n", None: "-"}[getattr(record, q)] for q in QUESTIONS)


# moves, exactly backprop's, weight transport, update lock, forward lock, target, earlier visits
HIDDEN = {
    "bp": "yyyyynn",
    "shallow": "nn-----",
    "dfa": "ynnnynn",
    "sdfa": "ynnnynn",
    "drtp": "ynnnnyn",
    "f3": "ynnnnyy",
}


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", HIDDEN)
def test_what_is_known_of_a_method_is_measured(name, net):
    case = nets.CASES[net]
    method = sb.f3(memory=8) if name == "f3" else getattr(sb, name)()
    head, *hidden = audited(method, case.build, case.shape)
    assert head.block == "head"
    assert answers(head) == "yy---nn"
    assert hidden
    assert {record.block: answers(record) for record in hidden} == {r.block: HIDDEN[name] for r in hidden}


@pytest.mark.parametrize("name", HIDDEN)
def test_single_precision_gives_the_same_answers(name):
    method = sb.f3(memory=8) if name == "f3" else getattr(sb, name)()
    _, *hidden = audited(method, dtype=torch.float32)
    assert [answers(record) for record in hidden] == 2 * [HIDDEN[name]]


def test_a_signal_that_reads_the_output_and_the_target_shows_both():
    """DFA as published sends softmax(y) - t, which the method makes itself."""
    published = sb.methods.page("dfa").as_published(link=sb.signals.softmax)
    _, *hidden = audited(published)
    assert {answers(record) for record in hidden} == {"ynnnyyn"}


LAYERWISE = {
    "fa": "n",
    "usf": "y",  # the signs of the weights
    "brsf": "y",
    "frsf": "y",
    "kp": "n",
    "weight_mirror": "n",
}


@pytest.mark.parametrize("name", LAYERWISE)
def test_layerwise_methods_are_locked_and_only_sign_symmetry_transports(name):
    """FA meets the derivatives of the deeper activations, but not the deeper weights."""
    for net in ("mlp", "functional_residual", "dropout"):
        _, *hidden = audited(getattr(sb, name)(), nets.CASES[net].build)
        assert {answers(record) for record in hidden} == {f"yn{LAYERWISE[name]}yynn"}


def test_the_gains_of_a_norm_are_transported_by_feedback_alignment():
    """It has feedback in place of each weight matrix, and passes a batch norm as backprop does."""
    _, last, first = audited(sb.fa(), nets.batchnorm)
    assert not last.weight_transport  # behind it comes the head, a matrix
    assert first.weight_transport


@pytest.mark.parametrize("name", ["fg_w", "fg_a"])
def test_forward_gradients_wait_for_the_output_but_for_no_backward_pass(name):
    head, *hidden = audited(getattr(sb, name)())
    assert {answers(record) for record in hidden} == {"ynnnynn"}
    assert head.exact is (name == "fg_a")


def test_learned_feedback_starts_with_an_update_of_zero():
    _, *hidden = audited(sb.dkp())
    assert {answers(record) for record in hidden} == {"nn-----"}


# -------------------------------------------------------------------------------------------- caught in the act


def keep_the_path(monkeypatch, block):
    """The cut of one block of the MLP is gone, so backprop is hidden there."""
    reader, meet_as_before = str(int(block) + 2), Pass._meet  # "0" is cut where "2" reads it

    def meet(self, place, position, port):
        flow = meet_as_before(self, place, position, port)
        return port if place.module == reader else flow

    monkeypatch.setattr(Pass, "_meet", meet)


@pytest.mark.parametrize("block", ["0", "2"])
def test_the_first_pass_refuses_hidden_backprop_by_itself(monkeypatch, block):
    learner, x, t, ids = attached(sb.dfa())
    keep_the_path(monkeypatch, block)
    with pytest.raises(RuntimeError, match="jumps over a cut"):
        nets.teach(learner, x, t, ids)


@pytest.mark.parametrize(
    ("method", "block"),
    # shallow teaches nothing at "2", so nothing could arrive at "0"
    [(sb.dfa(), "0"), (sb.dfa(), "2"), (sb.drtp(), "0"), (sb.drtp(), "2"), (sb.f3(memory=8), "2"), (sb.shallow(), "2")],
)
def test_hidden_backprop_is_caught_by_name(monkeypatch, method, block):
    honest = {record.block: answers(record) for record in audited(method)}
    learner, x, t, ids = attached(method)
    keep_the_path(monkeypatch, block)
    monkeypatch.setattr(Reading, "crosses", lambda *_, **options: False)  # nobody refuses it before the audit
    found = {record.block: record for record in sb.audit(learner, x, t, F.cross_entropy, ids)}
    guilty = found.pop(block)
    assert (guilty.weight_transport, guilty.update_lock, guilty.forward_lock) == (True, True, True)
    others = {name: answers(record) for name, record in found.items()}
    assert others == {name: honest[name] for name in others}


def test_a_head_that_is_not_exact_is_caught():
    x, t, _ = batch()
    learner = sb.attach(made(nets.mlp), sb.dfa(), x, show=None)
    learner.net[4].weight.register_hook(lambda g: 1.01 * g)
    # the hook is on both passes, so change what the method alone sees
    head, *_ = sb.audit(learner, x, t, F.cross_entropy)
    assert head.exact
    connect = learner.direct.connect
    learner.direct.connect = lambda output, *args, **kw: 1.01 * connect(output, *args, **kw)
    head, *_ = sb.audit(learner, x, t, F.cross_entropy)
    assert not head.exact


def test_a_feedback_that_follows_the_weights_is_transport():
    """B = the deeper weights, copied at each pass: the wolf in sheep's clothing."""
    x, t, _ = batch()
    learner = sb.attach(made(nets.mlp), sb.dfa(), x, show=None)

    def follow(net, args):
        learner.direct.feedback_1.data.copy_(net[4].weight.data)

    learner.net.register_forward_pre_hook(follow, prepend=True)
    found = {record.block: record for record in sb.audit(learner, x, t, F.cross_entropy)}
    assert found["2"].weight_transport
    assert not found["2"].update_lock
    assert not found["0"].weight_transport


@pytest.mark.parametrize(("factor", "exact"), [(1 + 1e-10, True), (1 + 1e-6, False)])
def test_rounding_is_no_difference(factor, exact):
    x, t, _ = batch()
    learner = sb.attach(made(nets.mlp), sb.dfa(), x, show=None)
    connect = learner.direct.connect
    learner.direct.connect = lambda output, *args, **kw: factor * connect(output, *args, **kw)
    head, *_ = sb.audit(learner, x, t, lambda y, t: y.sum())
    assert head.exact is exact


# ------------------------------------------------------------------------------------------------ odd networks


class Own(nn.Module):
    """The weights of the head belong to the network itself."""

    def __init__(self):
        super().__init__()
        self.body, self.w = nn.Linear(6, 7), nn.Parameter(torch.randn(nets.C, 7))

    def forward(self, x):
        return F.linear(torch.tanh(self.body(x)), self.w)


def test_the_output_is_held_before_the_method_reads_it():
    x, t, ids = batch()
    published = sb.methods.page("dfa").as_published(link=sb.signals.softmax)
    learner = sb.attach(made(Own), published, x, blocks=["body"], show=None)
    _, body = sb.audit(learner, x, t, F.cross_entropy, ids)
    assert answers(body) == "ynnnyyn"


def test_tied_weights_are_left_out():
    tokens = torch.randint(0, 11, (8, 4), generator=torch.Generator().manual_seed(1))
    t = torch.randint(0, 11, (8,), generator=torch.Generator().manual_seed(2))
    learner = sb.attach(made(nets.Tied), sb.dfa(), tokens, show=None)
    found = {record.block: answers(record) for record in sb.audit(learner, tokens, t, F.cross_entropy)}
    assert found["emb"] == "y------"
    assert found["middle"] == "ynnnynn"


def test_frozen_blocks_have_nothing_to_compare():
    net = made(nets.mlp)
    net[0].requires_grad_(False)
    x, t, _ = batch()
    *_, first = sb.audit(sb.attach(net, sb.dfa(), x, show=None), x, t, F.cross_entropy)
    assert (first.block, answers(first)) == ("0", "n------")


def test_one_cell_called_at_every_step():
    _, cell = audited(sb.bp(), nets.Unrolled)
    assert answers(cell) == "yyyyynn"
    _, cell = audited(sb.dfa(), nets.Unrolled)
    assert answers(cell) == "ynnnynn"


def test_a_network_without_hidden_blocks():
    (head,) = audited(sb.dfa(), lambda: nn.Sequential(nn.Linear(6, nets.C)))
    assert answers(head) == "yy---nn"


def test_values_as_targets():
    x, _, ids = batch()
    t = torch.randn(8, nets.C, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for method, expected in ((sb.f3(memory=8, link=sb.signals.identity), "ynnnnyy"), (sb.dfa(), "ynnnynn")):
        learner = sb.attach(made(nets.mlp), method, x, show=None)
        assert {answers(r) for r in sb.audit(learner, x, t, F.mse_loss, ids)[1:]} == {expected}


# ------------------------------------------------------------------------------------------------------- in words


def test_records_are_json_and_a_table():
    found = audited(sb.dfa())
    assert json.loads(json.dumps([dataclasses.asdict(record) for record in found]))[1]["exact"] is False
    head, *lines = table(found).splitlines()
    assert head.startswith("block  update norm")
    assert [line.split()[0] for line in lines] == ["head", "2", "0"]
    assert lines[0].split()[2:] == ["yes", "yes", "-", "-", "-", "no", "no"]


def test_deeper_is_what_runs_after():
    x, _, _ = batch()
    layout = sb.attach(made(nets.mlp), sb.dfa(), x, show=None).layout
    assert [len(module._deeper(layout, k)) for k in range(3)] == [4, 2, 0]

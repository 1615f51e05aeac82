"""Any module: each network of the zoo by name, found, taught as the equations say, and by nothing else."""

from dataclasses import replace

import lookalikes
import nets
import pytest
import torch
import torch.nn.functional as F
from nets import C, gradients, logits, made, same
from torch import nn

import skipback as sb
from skipback.blocks import units

N = 8


def _method(name):
    method = getattr(sb, name)(**({"memory": N} if name == "f3" else {}))
    if name in ("dkp", "fdfa"):  # learned feedback starts at 0, which teaches nothing at the first step
        method = replace(method, feedback=replace(method.feedback, draw=sb.draws.Gaussian()))
    return method


METHODS = {name: _method(name) for name in ("dfa", "drtp", "f3", "dkp", "fdfa", "fa", "kp", "fg_a")}
RECURRENT = {"lstm": "lstm", "gru": "gru"}


def works(name, method):
    """What is refused (see there) is left out."""
    if method in ("fa", "kp"):
        return name not in RECURRENT
    return not (name == "gcn_sparse" and method in ("fdfa", "fg_a"))


PAIRS = [(name, method) for name in lookalikes.CASES for method in METHODS if works(name, method)]
every_net = pytest.mark.parametrize("name", lookalikes.CASES)


def labels(case):
    return (
        torch.arange(N * lookalikes.T).reshape(N, lookalikes.T) % lookalikes.V if case.tokens else torch.arange(N) % C
    )


def example(case):
    args, kwargs = case.inputs(N)
    return (*args, *kwargs.values())


def attached(name, method="dfa"):
    case = lookalikes.CASES[name]
    return sb.attach(made(case.build), METHODS[method], example(case), show=None)


def run(learner, case):
    """The output (logits) and the loss. Dropout is the same each time; named inputs go by their names."""
    args, kwargs = case.inputs(N)
    torch.manual_seed(5)
    t = labels(case)
    given = {"target": t, "ids": torch.arange(N)}
    y = logits(learner(*args, **kwargs, **(given if isinstance(learner, nn.Module) else {})))
    return y, F.cross_entropy(y.flatten(0, -2), t.flatten())


def owned(case, net):
    """The names of the parameters of each block, by the table."""
    names = [name for name, _ in net.named_parameters()]
    return {block: [n for n in names if n.startswith(prefixes)] for block, prefixes in case.blocks.items()}


def ports(net, case, layout):
    """Keep what stands at each cut: hooks of the test's own, on what the table and the layout say."""
    found, handles = {}, []

    def keep(block, seen):
        found[block] = seen
        if seen.requires_grad:
            seen.register_hook(lambda g: found.__setitem__(f"{block} taught", g))

    for cut in layout.cuts:
        module = net.get_submodule(cut.module)
        if cut.before:
            take = lambda m, args, kwargs, c=cut: keep(c.block, tensors_in((args, kwargs))[c.position])  # noqa: E731
            handles.append(module.register_forward_pre_hook(take, with_kwargs=True, prepend=True))
        else:
            take = lambda m, args, y, c=cut: keep(c.block, tensors_in(y)[c.position])  # noqa: E731
            handles.append(module.register_forward_hook(take, prepend=True))
    return found, handles


def tensors_in(tree):
    if isinstance(tree, torch.Tensor):
        return [tree]
    items = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, tuple | list) else ()
    return [t for item in items for t in tensors_in(item)]


# ---------------------------------------------------------------------------------------------- what all nets have


@every_net
def test_the_blocks_are_these(name):
    case, learner = lookalikes.CASES[name], attached(name)
    assert [s.block for s in learner.layout.segments] == list(case.blocks)
    assert {cut.before for cut in learner.layout.cuts} == {not case.after}
    by_id = {id(p): n for n, p in learner.net.named_parameters()}
    found = {s.block: sorted(by_id[id(p)] for p in s.parameters) for s in learner.layout.segments}
    assert found == {block: sorted(names) for block, names in owned(case, learner.net).items()}
    assert learner.frozen == []


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_every_parameter_is_taught(name, method):
    case, learner = lookalikes.CASES[name], attached(name, method)
    still = case.still + (case.shifts if method in ("fa", "kp") else ())
    run(learner, case)[1].backward()
    for parameter, g in gradients(learner.net).items():
        assert g is not None, parameter
        assert g.isfinite().all(), parameter
        assert g.abs().max() > 1e-9 or parameter.endswith(still), parameter
    assert learner.frozen == []


@every_net
def test_a_block_gets_the_derivative_of_its_port_along_the_teaching(name):
    """By autograd on the plain network, from the port alone: no matter what other blocks do."""
    case, learner = lookalikes.CASES[name], attached(name)
    plain = made(case.build)
    seen, handles = ports(learner.net, case, learner.layout)
    run(learner, case)[1].backward()
    for handle in handles:
        handle.remove()
    expected, _ = ports(plain, case, learner.layout)
    run(plain.forward, case)
    found = gradients(learner.net)
    for block, names in list(owned(case, plain).items())[:-1]:
        own = [n for n in names if n not in case.tied]
        teaching = seen[f"{block} taught"]
        parameters = [plain.get_parameter(n) for n in own]
        by_hand = torch.autograd.grad(expected[block], parameters, teaching, retain_graph=True)
        for n, g in zip(own, by_hand, strict=True):
            torch.testing.assert_close(found[n], g, rtol=1e-9, atol=1e-12, msg=lambda m, n=n: f"{n}: {m}")


@pytest.mark.parametrize("name", [name for name, case in lookalikes.CASES.items() if not case.tokens])
def test_the_teaching_is_the_error_times_the_feedback(name):
    case, learner = lookalikes.CASES[name], attached(name)
    seen, _ = ports(learner.net, case, learner.layout)
    y, loss = run(learner, case)
    loss.backward()
    e = (torch.softmax(y.detach(), 1) - F.one_hot(labels(case), C)) / N
    for block, B in learner.feedback.items():
        torch.testing.assert_close(seen[f"{block} taught"].flatten(1), e @ B.flatten(1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [name for name, case in lookalikes.CASES.items() if case.tokens])
@pytest.mark.parametrize("method", ["dfa", "drtp", "f3"])
def test_each_position_is_taught_by_its_own_error_through_one_feedback(name, method):
    """B is (V, D) for all positions of a sequence: the teaching at a position knows the others' errors not at all."""
    case, learner = lookalikes.CASES[name], attached(name, method)
    seen, _ = ports(learner.net, case, learner.layout)
    y, loss = run(learner, case)
    loss.backward()
    one_hot = F.one_hot(labels(case), lookalikes.V).to(y)
    sent = {
        "dfa": (torch.softmax(y.detach(), -1) - one_hot) / (N * lookalikes.T),
        "drtp": -one_hot / (N * lookalikes.T),
        "f3": (1 / lookalikes.V - one_hot) / (N * lookalikes.T),
    }[method]
    for block, B in learner.feedback.items():
        assert B.shape == (lookalikes.V, 6)
        torch.testing.assert_close(seen[f"{block} taught"], sent @ B, rtol=1e-9, atol=1e-12)


@every_net
def test_without_feedback_nothing_reaches_a_hidden_block_and_the_head_is_exact(name):
    """The only path from the loss into a hidden block is its teaching."""
    case, learner = lookalikes.CASES[name], attached(name)
    with learner.exact():
        run(learner, case)[1].backward()
    exact = gradients(learner.net)
    learner.zero_grad()
    for B in learner.feedback.values():
        B.zero_()
    run(learner, case)[1].backward()
    head = set(owned(case, learner.net)["head"])
    for parameter, g in gradients(learner.net).items():
        if parameter not in head:
            assert not g.any(), parameter
        elif parameter not in case.tied:
            assert torch.equal(g, exact[parameter]), parameter


@every_net
def test_the_loss_falls_and_hidden_blocks_move(name):
    case, learner = lookalikes.CASES[name], attached(name)
    before = {n: p.detach().clone() for n, p in learner.net.named_parameters()}
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.02)
    losses = []
    for _ in range(15):
        _, loss = run(learner, case)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-3:]) < losses[0]
    for n, p in learner.net.named_parameters():
        assert not torch.equal(p, before[n]), n


@every_net
def test_the_network_stays_its_own(name):
    case = lookalikes.CASES[name]
    plain, net = made(case.build).eval(), made(case.build).eval()
    learner = sb.attach(net, METHODS["dfa"], example(case), show=None)
    assert same(plain.state_dict(), net.state_dict())
    args, kwargs = case.inputs(N)
    expected = plain(*args, **kwargs)
    for outputs in (learner(*args, **kwargs), net(*args, **kwargs)):
        assert type(outputs) is type(expected)
        assert torch.equal(logits(outputs), logits(expected))
    assert learner.detach() is net
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()) == 0


# ------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("method", ["fa", "kp"])
@pytest.mark.parametrize("name", RECURRENT)
def test_the_layerwise_route_refuses_a_recurrent_kernel(name, method):
    match = rf"^parameter 'rnn\.weight_ih_l0' takes part in torch\.{RECURRENT[name]}, .*write the cell out .*dfa\(\)"
    with pytest.raises(RuntimeError, match=match):
        attached(name, method)


def test_the_layerwise_route_refuses_a_transposed_convolution():
    net = nn.Sequential(nn.Conv2d(1, 3, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(3, 1, 2, 2))
    with pytest.raises(RuntimeError, match=r"'2\.weight' takes part in torch\.conv_transpose2d, .*nn\.Upsample .*dfa"):
        sb.attach(net, sb.fa(), torch.randn(2, 1, 8, 8), show=None)


def test_the_layerwise_route_refuses_a_graph_layer_of_bare_matrices():
    net = made(lookalikes.MatrixGCN)
    with pytest.raises(RuntimeError, match=r"'weight1' takes part in torch\.mm, .*functional\.linear"):
        sb.attach(net, sb.fa(), lookalikes.CASES["gcn"].inputs(N)[0], show=None)


@pytest.mark.parametrize("layout", ["coo", "csr"])
@pytest.mark.parametrize("product", [torch.matmul, torch.sparse.mm])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_forward_mode_refuses_a_sparse_adjacency(layout, product):
    class Net(lookalikes.GCN):
        def forward(self, x, adjacency):
            return product(adjacency, self.conv1.lin(x))

    x = nets.batch()[0]
    A = lookalikes.adjacency(N).to_sparse_coo() if layout == "coo" else lookalikes.adjacency(N).to_sparse_csr()
    learner = sb.attach(made(Net), sb.fg_w(), (x, A), show=None)
    with pytest.raises(NotImplementedError, match=r"^a product with a sparse tensor .*A\.to_dense\(\).*dfa\(\)"):
        learner(x, A)


def test_a_network_of_bare_parameters_is_refused():
    """Nothing can be cut where no module stands, so backprop would run through all; backprop itself is free."""
    x = lookalikes.CASES["gcn"].inputs(N)[0]
    with pytest.raises(ValueError, match=r"'weight1'.* used outside of the modules .* put each in an nn\.Module"):
        sb.attach(made(lookalikes.MatrixGCN), sb.dfa(), x, show=None)
    assert sb.attach(made(lookalikes.MatrixGCN), sb.bp(), x, show=None)(*x).requires_grad


# -------------------------------------------------------------------------------------------- one by one: sequences


@pytest.mark.parametrize("name", ["causal_lm", "causal_lm_tied"])
def test_a_causal_model_stays_causal(name):
    """Teaching changes no output: what a token says does not depend on those behind it, in training either."""
    net = attached(name).net.train()
    tokens = lookalikes.CASES[name].inputs(N)[0][0]
    other = tokens.clone()
    other[:, 3:] = (other[:, 3:] + 1) % lookalikes.V
    a, b = net(tokens), net(other)
    assert torch.equal(a[:, :3], b[:, :3])
    assert not torch.equal(a[:, 3:], b[:, 3:])


@pytest.mark.parametrize("method", [*METHODS.values(), sb.lg_fg_a()], ids=[*METHODS, "lg_fg_a"])
def test_every_measure_takes_a_language_model(method):
    """Targets (N, T) for outputs (N, T, V), whatever the method."""
    case = lookalikes.CASES["causal_lm"]
    learner = sb.attach(made(case.build), method, example(case), show=None)
    x, t, ids = case.inputs(N)[0][0], labels(case), torch.arange(N)

    def loss(y, t):
        return F.cross_entropy(y.flatten(0, 1), t.flatten())

    for measure in (sb.alignment, sb.gradient_alignment, sb.feedback_alignment, sb.growth, sb.stability, sb.audit):
        assert isinstance(measure(learner, x, t, loss, ids=ids), list)
    moves = [one.moves for one in sb.audit(learner, x, t, loss, ids=ids)]
    assert all(moves)


def test_local_losses_of_a_sequence_are_those_of_its_positions():
    """A classifier (V, D) for each position; the error is (softmax(z) - t) / (N T)."""
    case = lookalikes.CASES["causal_lm"]
    learner = sb.attach(made(case.build), sb.lg_fg_a(), example(case), show=None)
    assert {(c.in_features, c.out_features) for c in learner.route.classifiers} == {(6, lookalikes.V)}
    seen, _ = ports(learner.net, case, learner.layout)
    run(learner, case)[1].backward()
    for classifier, segment in zip(learner.route.classifiers, learner.layout.segments, strict=False):
        h = seen[segment.block].detach().reshape(-1, 6)
        e = (classifier(h).softmax(1) - F.one_hot(labels(case).flatten(), lookalikes.V)) / (N * lookalikes.T)
        torch.testing.assert_close(classifier.weight.grad, (e.T @ h).detach())
        torch.testing.assert_close(classifier.bias.grad, e.sum(0).detach())


def test_tied_embeddings_are_taught_from_both_ends():
    """The head's exact gradient, plus what the port of the embedding teaches."""
    case, learner = lookalikes.CASES["causal_lm_tied"], attached("causal_lm_tied")
    seen, handles = ports(learner.net, case, learner.layout)
    run(learner, case)[1].backward()
    found = learner.net.lm_head.weight.grad.clone()
    for handle in handles:
        handle.remove()
    plain = made(case.build)
    plain.lm_head.weight = nn.Parameter(plain.lm_head.weight.detach().clone())  # untied: the same values
    expected, _ = ports(plain, case, learner.layout)
    _, loss = run(plain.forward, case)
    (last,) = torch.autograd.grad(loss, plain.lm_head.weight, retain_graph=True)
    teaching = seen["transformer.wpe taught"]
    (first,) = torch.autograd.grad(expected["transformer.wpe"], plain.transformer.wte.weight, teaching)
    assert first.any()
    torch.testing.assert_close(found, first + last, rtol=1e-9, atol=1e-12)


def test_time_inside_a_recurrent_block_is_exact():
    """The teaching arrives at the last state, and earlier tokens still matter."""
    case, learner = lookalikes.CASES["lstm"], attached("lstm")
    run(learner, case)[1].backward()
    g = learner.net.rnn.weight_hh_l0.grad.clone()
    learner.zero_grad()
    tokens = case.inputs(N)[0][0].clone()
    tokens[:, 0] = (tokens[:, 0] + 1) % lookalikes.V
    torch.manual_seed(5)
    F.cross_entropy(learner(tokens), labels(case)).backward()
    assert not torch.equal(g, learner.net.rnn.weight_hh_l0.grad)


# -------------------------------------------------------------------------------------- one by one: what a net returns


def test_inputs_by_name_and_the_record_that_comes_back():
    """Without an example, at the first call by keywords; the output keeps its class, its entries and its mask."""
    case = lookalikes.CASES["huggingface_bert"]
    learner = sb.attach(made(case.build), sb.dfa(), show=None)
    _, kwargs = case.inputs(N)
    out = learner(**kwargs)
    assert type(out) is lookalikes.ClassifierOutput
    assert list(out) == ["logits"]
    assert out.logits is out["logits"] is out[0]
    assert out.logits.requires_grad
    assert [s.block for s in learner.layout.segments] == list(case.blocks)
    learner.net.eval()
    other = kwargs["input_ids"].clone()
    other[::2, -1] += 1  # masked there
    a, b = (
        learner(**kwargs).logits,
        learner(input_ids=other % lookalikes.V, attention_mask=kwargs["attention_mask"]).logits,
    )
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_hidden_states_that_are_returned_teach_their_own_block_alone():
    """A loss on them is local to the block: backprop would go on to those before."""
    learner = attached("huggingface_hidden_states")
    _, kwargs = lookalikes.CASES["huggingface_hidden_states"].inputs(N)
    assert list(learner.layout.outputs) == ["logits"]
    assert len(learner.feedback) == 4
    for k, block in enumerate(["bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1"]):
        learner.zero_grad()
        states = learner(**kwargs).hidden_states
        assert len(states) == 3
        (states[k] ** 2).sum().backward()
        taught = [name for name, g in gradients(learner.net).items() if g is not None and g.any()]
        assert taught
        assert all(name.startswith(block) for name in taught)


class Features(nn.Module):
    """Returns what a hidden block says, before or behind the prediction."""

    def __init__(self, features_first):
        super().__init__()
        self.body, self.more, self.out = nn.Linear(6, 7), nn.Linear(7, 5), nn.Linear(5, C)
        self.features_first = features_first

    def forward(self, x):
        h = self.more(torch.tanh(self.body(x)))
        y = self.out(h)
        return (h, y) if self.features_first else (y, h)


@pytest.mark.parametrize("features_first", [False, True])
def test_features_beside_the_prediction(features_first):
    x, t, _ = nets.batch()
    found = []
    for weight in (0.0, 1.0):
        learner = sb.attach(made(lambda: Features(features_first)), sb.dfa(), x, show=None)
        assert [s.block for s in learner.layout.segments] == ["body", "more", "head"]
        h, y = learner(x) if features_first else learner(x)[::-1]
        (F.cross_entropy(y, t) + weight * h.square().sum()).backward()
        found.append(gradients(learner.net))
    plain = made(lambda: Features(features_first))
    with torch.no_grad():
        before = torch.tanh(plain.body(x))
    plain.more(before).square().sum().backward()
    for name, g in found[0].items():
        local = gradients(plain)[name]
        torch.testing.assert_close(found[1][name], g if local is None else g + local, rtol=1e-10, atol=1e-14)


class Ensemble(nn.Module):
    """Two members read the body, and the output is their sum."""

    def __init__(self):
        super().__init__()
        self.body, self.a, self.b = nn.Linear(6, 7), nn.Linear(7, C), nn.Linear(7, C)
        self.temperature = nn.Parameter(torch.ones(1))

    def forward(self, x):
        h = torch.tanh(self.body(x))
        return (self.a(h) + self.b(h)) * self.temperature


def test_two_blocks_that_make_one_output_are_head_together():
    x, t, _ = nets.batch()
    learner = sb.attach(made(Ensemble), sb.dfa(), x, show=None)
    assert [s.block for s in learner.layout.segments] == ["body", "head"]
    F.cross_entropy(learner(x), t).backward()
    found = gradients(learner.net)
    learner.zero_grad()
    with learner.exact():
        F.cross_entropy(learner(x), t).backward()
    for name, g in gradients(learner.net).items():
        assert torch.equal(g, found[name]) == (not name.startswith("body")), name


class BareHead(nn.Module):
    """A bare matrix reads what a block adds to the stream, which is returned beside the prediction."""

    def __init__(self):
        super().__init__()
        self.body, self.more = nn.Linear(6, 5), nn.Linear(5, 5)
        self.weight = nn.Parameter(torch.randn(C, 5))

    def forward(self, x):
        h = torch.tanh(self.body(x))
        h = h + self.more(h)
        return F.linear(torch.tanh(h), self.weight), h


def test_a_block_that_a_bare_matrix_reads_is_hidden():
    learner = sb.attach(made(BareHead), sb.dfa(), nets.batch()[0], show=None)
    assert list(learner.feedback) == ["body", "more"]


# ------------------------------------------------------------------------------------------------ one by one: trees


def test_a_stack_in_a_backbone_is_looked_through_and_its_members_are_not():
    assert units(lookalikes.Backbone()) == [f"backbone.{b}" for b in lookalikes.TORCHVISION if b != "head"] + ["head"]

    class Inception(nn.Module):
        """Branches of single convolutions are one block, as GoogLeNet's."""

        def __init__(self):
            super().__init__()
            self.branch1 = nn.Sequential(nn.Conv2d(2, 2, 1))
            self.branch2 = nn.Sequential(
                lookalikes.ConvNormActivation(2, 2), nets.Wrapper(nn.Conv2d(2, 2, 3)), nets.Wrapper(nn.Conv2d(2, 2, 3))
            )

    class Mixture(nn.Module):
        """Experts further down in the member of a stack."""

        def __init__(self):
            super().__init__()
            self.experts = nn.Module()
            self.experts.list = nn.ModuleList([lookalikes.Block(6), lookalikes.Block(6)])

    net = nn.ModuleDict({"a": Inception(), "b": nn.Sequential(Mixture(), Mixture()), "c": nn.Linear(2, 2)})
    assert units(net) == ["a", "b.0", "b.1", "c"]


def test_a_backbone_in_a_sequential():
    net = nn.Sequential(lookalikes.Backbone().backbone, nn.ReLU(), nn.Linear(4, C))
    assert units(net)[:2] == ["0.conv1", "0.layer1.0"]


# ------------------------------------------------------------------------------------------------- one by one: sharing


def test_a_block_called_three_times_is_taught_at_every_call():
    """One feedback, three ports; gradients add up, and nothing passes from call to call."""
    tokens = lookalikes.CASES["lstm"].inputs(N)[0][0]
    learner = sb.attach(made(lookalikes.Albert), sb.dfa(), tokens, show=None)
    assert list(learner.feedback) == ["embed", "layer"]
    F.cross_entropy(y := learner(tokens), labels(lookalikes.CASES["lstm"])).backward()
    e = (torch.softmax(y.detach(), 1) - F.one_hot(labels(lookalikes.CASES["lstm"]), C)) / N
    plain = made(lookalikes.Albert)
    total = torch.zeros_like(plain.layer.attn.c_attn.weight)
    x = plain.embed(tokens).detach()
    for _ in range(3):
        port = plain.layer(x)
        teaching = (e @ learner.feedback["layer"].flatten(1)).reshape(port.shape)
        total += torch.autograd.grad(port, plain.layer.attn.c_attn.weight, teaching)[0]
        x = port.detach()
    torch.testing.assert_close(learner.net.layer.attn.c_attn.weight.grad, total, rtol=1e-9, atol=1e-12)


class Again(nn.Module):
    """The first block makes the output as well."""

    def __init__(self, other_between):
        super().__init__()
        self.stem, self.shared, self.other = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 5)
        self.other_between = other_between

    def forward(self, x):
        h = torch.tanh(self.shared(torch.tanh(self.stem(x))))
        return self.shared(torch.tanh(self.other(h)) if self.other_between else h)


@pytest.mark.parametrize("other_between", [False, True])
def test_a_shared_block_that_makes_the_output_is_hidden_and_head(other_between):
    """Its last call gets the exact gradient, the one before its teaching, and nothing passes between them."""
    x, t, _ = nets.batch()
    learner = sb.attach(made(lambda: Again(other_between)), sb.dfa(), x, show=None)
    hidden = ["stem", "shared", "other"] if other_between else ["stem", "shared"]
    assert [s.block for s in learner.layout.segments] == [*hidden, "head"]
    F.cross_entropy(y := learner(x), t).backward()
    e = (torch.softmax(y.detach(), 1) - F.one_hot(t, C)) / len(x)
    plain = made(lambda: Again(other_between))
    h = x
    for block in hidden:
        h = torch.tanh(plain.get_submodule(block)(h.detach()))
        h.backward(e @ learner.feedback[block])
    F.cross_entropy(plain.shared(h.detach()), t).backward()
    for name, g in gradients(learner.net).items():
        expected = gradients(plain)[name]
        if expected is not None:
            torch.testing.assert_close(g, expected, rtol=1e-10, atol=1e-14)
        else:
            assert g is None


class JoinedCell(nn.Module):
    """A cell whose state is joined with the next part of the input: its input is wider than what it returns."""

    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.Linear(5, 3), nn.Linear(3, C)

    def forward(self, x):
        h = x.new_zeros(len(x), 3)
        for part in x.split(2, dim=1):
            h = torch.tanh(self.cell(torch.cat([h, part], 1)))
        return self.out(h)


def test_a_cell_that_joins_its_state_with_the_next_input_is_taught_at_its_own_output():
    x, t, _ = nets.batch()
    learner = sb.attach(made(JoinedCell), sb.dfa(), x, show=None)
    assert [(s.block, s.shape) for s in learner.layout.segments] == [("cell", (N, 3)), ("head", (N, C))]
    F.cross_entropy(y := learner(x), t).backward()
    e = (torch.softmax(y.detach(), 1) - F.one_hot(t, C)) / N
    plain, h = made(JoinedCell), x.new_zeros(N, 3)
    for part in x.split(2, dim=1):
        port = plain.cell(torch.cat([h, part], 1))
        port.backward(e @ learner.feedback["cell"])
        h = torch.tanh(port.detach())
    F.cross_entropy(plain.out(h), t).backward()
    for name, g in gradients(learner.net).items():
        torch.testing.assert_close(g, gradients(plain)[name], rtol=1e-10, atol=1e-14)


# -------------------------------------------------------------------------------------------------- frozen parameters

SPEECH = ["conv1", "conv2", "layers.0", "layers.1", "head"]


def given(found):
    """Without the parameters that have no gradient."""
    return {name: g for name, g in found.items() if g is not None}


def speech_gradients(learner, x):
    learner.zero_grad()
    F.cross_entropy(learner.net(x), torch.arange(N) % C).backward()
    return gradients(learner.net)


def test_a_block_is_named_after_what_is_trained_in_it_and_keeps_its_name_when_more_is():
    """What is drawn for a block at attach teaches it in every pass; nothing is drawn later."""
    net, (x,) = made(lookalikes.Speech), lookalikes._sound(N)[0]
    learner = sb.attach(net, sb.dfa(), example=x, show=None)
    assert [s.block for s in learner.layout.segments] == SPEECH
    state = {key: value.clone() for key, value in learner.state_dict().items()}
    before = speech_gradients(learner, x)
    net.embed_positions.requires_grad_(True)
    after = speech_gradients(learner, x)
    assert list(learner.feedback) == SPEECH[:-1]
    assert learner.state_dict().keys() == state.keys()
    assert same({name: after[name] for name in given(before)}, given(before))
    net.conv2.requires_grad_(False)
    alone = speech_gradients(learner, x)
    assert alone["conv2.bias"] is None
    assert list(learner.feedback) == SPEECH[:-1]
    assert same(given(alone), {name: after[name] for name in given(alone)})
    assert "embed_positions.weight" in given(alone)


def test_the_feedback_of_a_block_with_frozen_positions_teaches_it():
    net, (x,) = made(lookalikes.Speech), lookalikes._sound(N)[0]
    learner = sb.attach(net, sb.dfa(), example=x, show=None)
    y = net(x)
    F.cross_entropy(y, torch.arange(N) % C).backward()
    e = ((y.softmax(1) - F.one_hot(torch.arange(N) % C, C)) / N).detach()
    taught = torch.einsum("nc,ctd->ntd", e, learner.feedback["conv2"])
    plain = made(lookalikes.Speech)
    h = F.gelu(plain.conv2(F.gelu(plain.conv1(x)).detach())).transpose(1, 2)
    (expected,) = torch.autograd.grad(h, plain.conv2.weight, taught)
    torch.testing.assert_close(net.conv2.weight.grad, expected)

"""Members: which learners can be trained together, and why others cannot."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from skipback.core.feedback import Matrix, Sees
from skipback.core.method import Direct, Exact, HeadOnly
from skipback.learner import Learner
from skipback.step.chain import chain
from skipback.step.checks import needs_backward
from skipback.step.rules import ACTIVATIONS, Dense, rule

LAYERS = (
    "only a plain nn.Sequential of Linear and elementwise activations, all of it trained and without other hooks, is "
    "trained together"
)

ALONE = "train it alone, by learner.step"


def dense_rules(learner: Learner) -> list[Dense]:
    """The blocks of one member in order, each a linear layer and its activation; the last one is the head.

    Raises:
        ValueError: the member's method or network has no batched form.
    """
    _check_method(learner)
    if isinstance(learner.method, Exact):
        return _plain(learner.net)
    if learner.layout is None:
        raise ValueError("the blocks are not known yet: pass example=... to attach()")
    found = chain(learner.net, learner.layout)
    rules = [] if found is None else [*(r for _, r in found.hidden), found.head]
    dense = [r for r in rules if isinstance(r, Dense)]
    if not dense or len(dense) < len(rules):
        raise ValueError(LAYERS)
    return dense


def check_alike(members: Sequence[list[Dense]]) -> None:
    """Refuse members that differ in shape, or share a weight.

    Raises:
        ValueError: a member differs from member 0, or two layers share a weight.
    """
    shapes = [[_shape(r) for r in rules] for rules in members]
    for n, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise ValueError(f"member {n} is {shape}, but member 0 is {shapes[0]}: all must be of one shape")
    owned = [id(p) for rules in members for r in rules for p in r.parameters]
    if len(owned) != len(set(owned)):
        raise ValueError("two layers share a weight: each member needs weights of its own, and each layer too")


def _shape(r: Dense) -> str:
    linear = r.linear
    size = f"{linear.in_features} -> {linear.out_features}{'' if linear.bias is not None else ' without bias'}"
    return f"{size} {r.module!r} {linear.weight.dtype} {linear.weight.device}{' flattened' if r.flatten else ''}"


def _check_method(learner: Learner) -> None:
    method, what = learner.method, "is not trained together"
    if learner.anchor is not None:
        raise ValueError(f"an anchored method {what}: take the method without its anchor")
    if not isinstance(method, Exact | HeadOnly | Direct):
        raise ValueError(f"a {type(method).__name__} method {what}: only bp, shallow and direct methods are: {ALONE}")
    if not isinstance(method, Direct):
        return
    feedback = method.feedback
    if feedback.learns:
        raise ValueError(f"learned feedback ({type(feedback).__name__}) {what}: only fixed matrices are: {ALONE}")
    matrix = isinstance(feedback, Matrix) and type(feedback).project is Matrix.project
    if not matrix or feedback.sees is not Sees.NOTHING:
        kind = type(feedback).__name__
        raise ValueError(f"feedback of kind {kind} {what}: only a fixed matrix for each port is: {ALONE}")


def _plain(net: nn.Module) -> list[Dense]:
    """The blocks of a network without cuts: each begins at a linear layer, or at the flattening before it."""
    leaves = [m for m in net.modules() if type(m) is not nn.Sequential]
    hooked = any(m._forward_pre_hooks or m._forward_hooks or m._backward_hooks for m in net.modules() if m is not net)
    own = len(net._forward_pre_hooks) + len(net._forward_hooks) == 2  # those of the learner
    known = (nn.Linear, nn.Flatten, *ACTIVATIONS)
    unknown = any(type(m) not in known for m in leaves)
    if type(net) is not nn.Sequential or needs_backward(net) or hooked or not own or unknown:
        raise ValueError(LAYERS)
    blocks: list[list[nn.Module]] = [[]]
    for module in leaves:
        if type(module) is nn.Linear and any(type(m) is nn.Linear for m in blocks[-1]):
            blocks.append([])
        blocks[-1].append(module)
    dense = [r for r in (rule(modules, rows=True) for modules in blocks) if isinstance(r, Dense)]
    if len(dense) < len(blocks):
        raise ValueError(LAYERS)
    return dense

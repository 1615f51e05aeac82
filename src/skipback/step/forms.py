"""Forms of a chain: the same blocks by other rules, for a step under autocast, by torch.compile or by oneDNN."""

from __future__ import annotations

from skipback.step.autocast_dense import AutocastDense
from skipback.step.chain import Chain
from skipback.step.compiled import Compiled, Compiler
from skipback.step.onednn import OneDNNDense
from skipback.step.rules import Dense, ModulesBlock, Rule


def specialise(chain: Chain, *, cast: bool, compiler: Compiler | None, kernel: bool = False) -> Chain:
    """Return the form of the chain for this kind of step, cached in `chain.forms`.

    When the network changes, its chain is found again, and the cached forms go with the old one.

    Args:
        chain: the plain one.
        cast: autocast is on.
        compiler: compiles the blocks that go by autograd; the closed form has nothing to gain from it.
        kernel: dense blocks call oneDNN's kernel.
    """
    if not cast and compiler is None and not kernel:
        return chain
    key = cast, compiler is not None, kernel
    cached = chain.forms.get(key)
    if cached is None or cached[0] is not compiler:

        def form(rule: Rule) -> Rule:
            if cast and isinstance(rule, Dense):
                return AutocastDense(rule)
            if kernel and isinstance(rule, Dense):
                return OneDNNDense(rule)
            return Compiled(rule, compiler) if compiler is not None and isinstance(rule, ModulesBlock) else rule

        hidden = [(block, form(rule)) for block, rule in chain.hidden]
        cached = chain.forms[key] = compiler, Chain(hidden, form(chain.head))
    return cached[1]


def release(chain: Chain) -> None:
    """After a failed step, free the activations saved in every form of the chain."""
    for one in (chain, *(form for _, form in chain.forms.values())):
        for rule in one.rules:
            rule.release()

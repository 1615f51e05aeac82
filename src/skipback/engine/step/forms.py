"""Forms of a chain: the same blocks by other rules, for a step under autocast, a compiled one, or one by oneDNN."""

from __future__ import annotations

from skipback.engine.step.chain import Chain
from skipback.engine.step.compiled import Compiled, Compiler
from skipback.engine.step.low import Low
from skipback.engine.step.onednn import OneDNN
from skipback.engine.step.rules import Dense, Graph, Rule


def formed(chain: Chain, *, cast: bool, compiler: Compiler | None, kernel: bool = False) -> Chain:
    """The chain in the form that a step needs. Kept with the chain, which is found again when the network changes.

    Args:
        chain: the plain one.
        cast: autocast is on.
        compiler: of the blocks that go by autograd; the closed form has nothing to gain from it.
        kernel: all blocks go by oneDNN's kernel.
    """
    if not cast and compiler is None and not kernel:
        return chain
    key = cast, compiler is not None, kernel
    kept = chain.forms.get(key)
    if kept is None or kept[0] is not compiler:

        def form(rule: Rule) -> Rule:
            if cast and isinstance(rule, Dense):
                return Low(rule)
            if kernel and isinstance(rule, Dense):
                return OneDNN(rule)
            return Compiled(rule, compiler) if compiler is not None and isinstance(rule, Graph) else rule

        hidden = [(block, form(rule)) for block, rule in chain.hidden]
        kept = chain.forms[key] = compiler, Chain(hidden, form(chain.head))
    return kept[1]


def drop(chain: Chain) -> None:
    """Let all forms go of what a step that failed has kept."""
    for one in (chain, *(form for _, form in chain.forms.values())):
        for rule in one.rules:
            rule.drop()

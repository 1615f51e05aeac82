"""What fits: what each way of training requires of a learner, its update and its surroundings, and what it says if not.

A way of training is a column of sentences in `TABLE`, one for each trait that it requires; the first trait that is
missing is refused in words. The same mistake gets the same words, whatever the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from skipback.core.learner import TaughtNetwork
from skipback.step.traits import Traits
from skipback.update import Update


@dataclass(frozen=True)
class Requirement:
    """One trait.

    Attributes:
        trait: its name in `Traits`.
        sentences: what each way of training that requires it says where it is missing.
        error: the type of the error.
        now: it is asked at every call, and not where a schedule is built.
    """

    trait: str
    sentences: Mapping[str, str]
    error: type[Exception] = ValueError
    now: bool = False


WAYS = ("step", "wavefront", "stages", "many")
UNFIT = (
    "a wavefront needs a signal that is known before the forward pass, sent through fixed matrices in every pass: "
    "drtp() and f3() have one, this method has not; use learner.step()"
)
SPREAD = "the blocks cannot be spread over processes: "
TAKEN_OFF = "the method was taken off by detach(), so nothing would train the network: attach one again"
NOT_KNOWN = "the blocks are not known yet: pass example=... to attach()"
ALONE = "train it alone, by learner.step"

TABLE = (
    Requirement(
        "attached",
        dict.fromkeys(WAYS, TAKEN_OFF),
        RuntimeError,
    ),
    Requirement("training", dict.fromkeys(WAYS, "the network is in eval mode: call train() first"), now=True),
    Requirement(
        "gradients",
        dict.fromkeys(WAYS, "training does not work in inference mode, whose tensors have no gradients: leave it"),
        RuntimeError,
        now=True,
    ),
    Requirement(
        "one_process",
        {
            "backward": "step() of this method or network runs in one process: use DDP and loss.backward()",
            "wavefront": "a wavefront runs in one process, and {t.world} train together: use learner.step()",
            "many": "members are trained together in one process, and {t.world} train together: use learner.step()",
            "captured": "several processes train, and average their gradients in each step",
        },
        RuntimeError,
    ),
    Requirement(
        "full_precision",
        {
            "wavefront": "a wavefront runs in the precision of its weights: leave torch.autocast",
            "stages": "stages run in the precision of their weights, without autocast: leave it",
            "many": "members are trained together in the precision of their weights, without autocast: leave it",
            "captured": "it runs inside autocast, which keeps copies of the weights: call it outside",
        },
        RuntimeError,
    ),
    Requirement("known", dict.fromkeys(("wavefront", "stages", "many"), NOT_KNOWN)),
    Requirement(
        "unanchored",
        {
            "many": "an anchored method is not trained together: take the method without its anchor",
            "captured": "the method is anchored: the host counts its passes, and every few of them are another step",
        },
    ),
    Requirement(
        "blockwise",
        {"many": f"a {{t.method}} method is not trained together: only bp, shallow and direct methods are: {ALONE}"},
    ),
    Requirement(
        "early",
        {
            "wavefront": UNFIT,
            "stages": f"{SPREAD}the signal is late, it is known only after the last block has run. Use an early one: "
            "skipback.drtp(), or skipback.f3(memory=...)",
        },
    ),
    Requirement(
        "fixed",
        {
            "many": f"learned feedback ({{t.feedback}}) is not trained together: only fixed matrices are: {ALONE}",
            "stages": f"{SPREAD}the feedback learns. Use fixed feedback",
        },
    ),
    Requirement("local", {"stages": f"{SPREAD}the feedback is computed from the whole network. Use fixed feedback"}),
    Requirement(
        "matrices",
        {
            "wavefront": UNFIT,
            "many": "feedback of kind {t.feedback} is not trained together: only a fixed "
            f"matrix for each port is: {ALONE}",
        },
    ),
    Requirement(
        "streamless", {"captured": "the method draws random directions in each step, from a stream that the host seeds"}
    ),
    Requirement(
        "local",
        {
            "captured": "its feedback runs the network ahead of each step by function transforms, which were not seen "
            "to record"
        },
    ),
    Requirement(
        "memory_near",
        {
            "captured": "its memory lies on {t.memory.rows.device}, the network on {t.device}: make the method with "
            "device=None"
        },
    ),
    Requirement("separate", {"stages": f"{SPREAD}two of them own the same parameter"}),
    Requirement(
        "drawless",
        {"stages": SPREAD + "{t.draws[0]!r} draws random numbers, which would not be those of one process"},
    ),
    Requirement(
        "sequential",
        {
            "stages": f"{SPREAD}the network is no plain nn.Sequential that is cut between its modules, or a module "
            "has hooks beside the learner's"
        },
    ),
    Requirement(
        "dense",
        {
            "many": "only a plain nn.Sequential of Linear and elementwise activations, all of it trained and without "
            "other hooks, is trained together"
        },
    ),
    Requirement(
        "stack",
        {
            "wavefront": "a wavefront needs a plain nn.Sequential without other hooks: a first dense block, then dense "
            "layers of one width with one activation and, all or none, a bias, then a dense head, all trainable; train "
            "other networks by learner.step()"
        },
    ),
    Requirement(
        "numbers", {"captured": "a setting of its optimizer is a tensor, which the step would read: pass a number"}
    ),
    Requirement(
        "counts_on_device",
        {
            "captured": "torch.optim.{t.optimizer} counts its steps on the host: make it with capturable=True where it "
            "has that, skipback.update.Update(lambda ps: {t.optimizer}(ps, ..., capturable=True)), or take "
            "skipback.update.adam()"
        },
    ),
)
"""Asked from top to bottom."""


def missing(way: str, traits: Traits, *, now: bool = False) -> Exception | None:
    """What a way of training misses first, as the error to raise; `None` if all is there.

    Args:
        way: "step", "backward" (a step by it), "wavefront", "stages", "many" or "captured".
        traits: what there is.
        now: training begins now, rather than that a schedule is built.
    """
    for row in TABLE:
        if way in row.sentences and (now or not row.now) and not getattr(traits, row.trait):
            return row.error(row.sentences[way].format(t=traits))
    return None


def check(way: str, learner: TaughtNetwork, update: Update | None = None, *, now: bool = False) -> Traits:
    """The traits of a learner that a way of training takes. The arguments are those of `missing`.

    Raises:
        ValueError: a trait is missing.
        RuntimeError: one of the surroundings, or the method, is.
    """
    traits = Traits(learner, update)
    found = missing(way, traits, now=now)
    if found is not None:
        raise found
    return traits

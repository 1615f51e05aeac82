"""What all checks need: sentences, distances, and whether something was written, kept or drawn from elsewhere."""

from __future__ import annotations

import contextlib
import copy
import pickle
import random
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

CLOSE = 1e-9
"""Relative difference of float64 results that are the same but for the order of sums."""


def law(holds: bool, sentence: str) -> None:
    """Raise the sentence unless the law holds.

    Raises:
        AssertionError: it does not.
    """
    if not holds:
        raise AssertionError(sentence)


def name_of(thing: object) -> str:
    """How a sentence calls it."""
    return type(thing).__name__ if not callable(thing) or not hasattr(thing, "__name__") else thing.__name__


def generator(seed: int = 1) -> torch.Generator:
    """A generator of the checks' own."""
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    """Numbers from N(0, 1), the same for a seed."""
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference of two tensors, in units of the largest entry of the second."""
    if a.numel() == 0:
        return 0.0
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-300))


def check_close(found: Tensor, expected: Tensor, sentence: str, *, within: float = CLOSE) -> None:
    """The law that two tensors are the same; the sentence gets the difference behind it."""
    law(found.shape == expected.shape, f"{sentence}: shape {tuple(found.shape)} instead of {tuple(expected.shape)}")
    difference = apart(found, expected)
    law(difference <= within, f"{sentence}: they differ by {difference:.2g} of the largest entry")


def check_tensor(found: object, shape: Iterable[int], dtype: torch.dtype, what: str) -> Tensor:
    """The law that something is a finite tensor of this shape and dtype."""
    law(isinstance(found, Tensor), f"{what} is a {name_of(found)}, but must be a tensor")
    assert isinstance(found, Tensor)
    law(found.shape == torch.Size(shape), f"{what} has shape {tuple(found.shape)}, but must have {tuple(shape)}")
    law(found.dtype == dtype, f"{what} is {found.dtype}, but must be {dtype}")
    law(bool(found.isfinite().all()), f"{what} has entries that are not finite")
    return found


def check_prints(thing: object) -> None:
    """The law that what is printed says what it is; functions are printed by their names."""
    address = re.search(r"<[\w.]+ object at 0x\w+>", repr(thing))
    law(address is None, f"{name_of(thing)} prints an address ({address and address[0]}): make it a frozen dataclass")


def check_record(thing: object) -> None:
    """The laws of a record: it prints, compares and pickles, as whatever holds it is printed and saved."""
    what = name_of(thing)
    check_prints(thing)
    try:
        again = pickle.loads(pickle.dumps(thing))  # noqa: S301  # of our own making
    except Exception as error:
        raise AssertionError(
            f"{what} does not pickle ({error}), so no learner with it can be saved or copied"
        ) from error
    law(again == thing, f"{what} is not equal to its own copy: make it a frozen dataclass")


@contextlib.contextmanager
def record(thing: object) -> Iterator[None]:
    """The laws of `check_record`, and that a record is the same after all that is done with it inside."""
    check_record(thing)
    before = pickle.dumps(thing)
    yield
    kept = pickle.dumps(thing) != before
    law(not kept, f"{name_of(thing)} keeps something from call to call: state lives in the learner, which saves it")


@contextlib.contextmanager
def only_given(what: str, *held: Tensor | None) -> Iterator[None]:
    """The laws that inside nothing is drawn from a global random state, and none of these tensors is written."""
    tensors = [tensor for tensor in held if tensor is not None]
    before = [tensor.detach().clone() for tensor in tensors]
    state, own = torch.get_rng_state(), random.getstate()
    yield
    drawn = not torch.equal(state, torch.get_rng_state()) or own != random.getstate()
    law(not drawn, f"{what} draws from a global random state: draw from the generator that it is given")
    for tensor, was in zip(tensors, before, strict=True):
        law(torch.equal(tensor, was), f"{what} writes over a tensor of shape {tuple(tensor.shape)} that it was given")


def check_repeats(what: str, call: Callable[[], Any]) -> Any:
    """The law that a call answers the same bits twice. Returns the answer."""
    first = copy.deepcopy(call())
    second = call()
    pairs = list(zip(_tensors(first), _tensors(second), strict=True))
    same = all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)
    worst = max((apart(a, b) for a, b in pairs if a.shape == b.shape), default=0.0)
    law(same, f"{what} answers differently when it is called again with the same ({worst:.2g} of the largest entry)")
    return second


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    return [one for part in tree for one in _tensors(part)] if isinstance(tree, list | tuple) else []

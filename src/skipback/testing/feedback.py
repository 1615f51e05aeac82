"""The contract of feedback."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from skipback.blocks.specs import PortSpec
from skipback.core.feedback import Feedback, FeedbackTensors, Lesson, Sees
from skipback.testing.laws import (
    check_close,
    check_repeats,
    check_tensor,
    generator,
    law,
    name_of,
    noise,
    only_given,
    record,
)

ROWS = 6
FACTORS = (2.0**-10, 3.0, 1024.0)


def check_feedback(feedback: Feedback, *, shapes: Sequence[tuple[int, ...]] = ((7,), (4, 3)), outputs: int = 5) -> None:
    """Check the laws of `skipback.feedback.Feedback`.

    Args:
        feedback: the rule.
        shapes: of the ports that it is asked to teach.
        outputs: C.

    Raises:
        AssertionError: a law is broken.
    """
    with record(feedback):
        _check(feedback, shapes, outputs)


def _check(feedback: Feedback, shapes: Sequence[tuple[int, ...]], outputs: int) -> None:
    ports = [_port(f"port {k}", shape, outputs) for k, shape in enumerate([*shapes, shapes[0]])]
    filled = _check_init(feedback, ports)
    for port, parts in zip(ports, filled, strict=True):
        _check_project(feedback, port, parts)
        _check_factors(feedback, port, parts)
        _check_matrix(feedback, port, parts)
        if feedback.learns:
            _check_gradient(feedback, port, parts)


def _port(name: str, shape: tuple[int, ...], outputs: int) -> PortSpec:
    return PortSpec(name=name, shape=shape, outputs=outputs, dtype=torch.float64, device=torch.device("cpu"))


def _lesson(feedback: Feedback, port: PortSpec, *, rows: slice = slice(None)) -> Lesson:
    """A lesson with what the feedback sees, of all rows or some."""
    sees, D = feedback.sees, port.shape
    relayed = noise(port.outputs, ROWS, *D, seed=4) if Sees.RELAY in sees else None
    return Lesson(
        port=port,
        signal=noise(ROWS, port.outputs, seed=2)[rows],
        activity=noise(ROWS, *D, seed=3)[rows] if Sees.ACTIVITY in sees else None,
        jacobian=noise(port.outputs, *D, seed=5) if Sees.JACOBIAN in sees else None,
        relayed=None if relayed is None else relayed[:, rows],
    )


def _tensors(lesson: Lesson, parts: FeedbackTensors) -> list[Tensor | None]:
    return [lesson.signal, lesson.activity, lesson.jacobian, lesson.relayed, *parts]


def _check_init(feedback: Feedback, ports: list[PortSpec]) -> list[FeedbackTensors]:
    what = f"{name_of(feedback)}.init"
    with only_given(what):
        filled = check_repeats(what, lambda: feedback.init(ports, generator()))
    law(len(filled) == len(ports), f"{what} returns tensors for {len(filled)} ports, but there are {len(ports)}")
    law(all(isinstance(parts, tuple) for parts in filled), f"{what} must return a tuple of tensors for each port")
    for dtype, device in ((torch.float32, "cpu"), (torch.float64, "meta")):
        asked = [dataclasses.replace(port, dtype=dtype, device=torch.device(device)) for port in ports]
        for part in [part for parts in feedback.init(asked, generator()) for part in parts]:
            law(part.device.type == device, f"{what} returns a tensor on {part.device}, but the port is on {device}")
            law(
                part.dtype == dtype or not part.is_floating_point(),
                f"{what} returns {part.dtype}, but the port asks for {dtype}",
            )
    return list(filled)


def _check_project(feedback: Feedback, port: PortSpec, parts: FeedbackTensors) -> None:
    what, lesson = f"{name_of(feedback)}.project", _lesson(feedback, port)
    with only_given(what, *_tensors(lesson, parts)):
        teaching = check_repeats(what, lambda: feedback.project(lesson, parts))
    check_tensor(teaching, (ROWS, *port.shape), torch.float64, f"the teaching of {what}")
    some = slice(2, 5)
    found = feedback.project(_lesson(feedback, port, rows=some), parts)
    check_close(found, teaching[some], f"{what} mixes samples: rows 2 to 4 alone are taught otherwise than among all")
    coarse = dataclasses.replace(lesson, signal=lesson.signal.float())
    near = feedback.project(coarse, parts)
    law(near.shape == teaching.shape, f"{what} of a float32 signal has shape {tuple(near.shape)}")
    check_close(near, teaching, f"{what} of a float32 signal is another teaching", within=1e-3)


def _check_factors(feedback: Feedback, port: PortSpec, parts: FeedbackTensors) -> None:
    """Whether c times the signal gives c times the teaching, if the feedback says so."""
    what, lesson = name_of(feedback), _lesson(feedback, port)
    law(isinstance(feedback.homogeneous, bool), f"{what}.homogeneous must be True or False")
    law(isinstance(feedback.shares_positions, bool), f"{what}.shares_positions must be True or False")
    teaching = feedback.project(lesson, parts)
    for c in FACTORS if feedback.homogeneous else ():
        found = feedback.project(dataclasses.replace(lesson, signal=c * lesson.signal), parts)
        check_close(
            found,
            c * teaching,
            f"{what} says that it is homogeneous, but {c:g} times the signal is not {c:g} times the teaching",
        )


def _check_matrix(feedback: Feedback, port: PortSpec, parts: FeedbackTensors) -> None:
    if not parts or feedback.sees & ~Sees.JACOBIAN:
        return  # what it acts as depends on more than its tensors
    what = f"{name_of(feedback)}.matrix"
    with only_given(what, *parts):
        B = feedback.matrix(port, parts)
    check_tensor(B, (port.outputs, *port.shape), torch.float64, what)


def _check_gradient(feedback: Feedback, port: PortSpec, parts: FeedbackTensors) -> None:
    what, lesson = f"{name_of(feedback)}.gradient", _lesson(feedback, port)
    with only_given(what, *_tensors(lesson, parts)):
        found = check_repeats(what, lambda: feedback.gradient(lesson, parts))
    law(len(found) == len(parts), f"{what} returns {len(found)} tensors for {len(parts)} parts")
    for gradient, part in zip(found, parts, strict=True):
        law(part.is_floating_point(), f"{name_of(feedback)} learns a part of {part.dtype}, which has no gradient")
        check_tensor(gradient, part.shape, part.dtype, f"a gradient of {what}")

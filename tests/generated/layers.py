"""The layers of generated networks: each makes its modules, and runs them the way people write it in a forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generated import tape

ACTS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "sigmoid": torch.sigmoid,
}
IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x.mul_(0.9),
    "relu": F.relu_,
    "tanh": torch.tanh_,
    "gelu": lambda x: F.leaky_relu_(x, 0.1),
    "sigmoid": torch.sigmoid_,
}
MODULES: dict[str, Callable[[bool], nn.Module]] = {
    "none": lambda inplace: nn.Identity(),
    "relu": lambda inplace: nn.ReLU(inplace=inplace),
    "tanh": lambda inplace: nn.Tanh(),
    "gelu": lambda inplace: nn.LeakyReLU(0.1, inplace=True) if inplace else nn.GELU(),
    "sigmoid": lambda inplace: nn.Sigmoid(),
}


class Owner(Protocol):
    """Who holds the modules of a stage: the trunk, or a block with a forward of its own."""

    training: bool

    def part(self, k: int, part: str) -> Any: ...

    def full(self, k: int, part: str) -> str: ...


Parts = Iterator[tuple[str, nn.Module | nn.Parameter]]


def _bare(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) / shape[-1] ** 0.5)


def parts(layer: str, i: int, o: int) -> Parts:
    """The modules and parameters of a layer from `i` to `o` units."""
    if layer in ("bare", "bare_list"):
        yield "w", _bare(o, i)
        yield "b", nn.Parameter(torch.zeros(o))
        return
    for part in {"gated": "ab", "experts": "ab", "vae": "ml", "attention": "qkvo", "rnn_loop": "xh"}.get(layer, ""):
        yield part, nn.Linear(i if part not in "ho" or layer in ("gated", "experts", "vae") else o, o)
    made = _single(layer, i, o)
    if made is not None:
        yield "layer", made
    if layer == "hourglass":
        yield "up", nn.Conv2d(o, o, 3, padding=1)


def _single(layer: str, i: int, o: int) -> nn.Module | None:
    makers: dict[str, Callable[[], nn.Module]] = {
        "linear": lambda: nn.Linear(i, o),
        "conv": lambda: nn.Conv2d(i, o, 3, padding=1),
        "down": lambda: nn.Conv2d(i, o, 3, stride=2, padding=1),
        "hourglass": lambda: nn.Conv2d(i, o, 3, stride=2, padding=1),
        "conv1d": lambda: nn.Conv1d(i, o, 3, padding=1),
        "lstm": lambda: nn.LSTM(i, o, batch_first=True),
        "gru": lambda: nn.GRU(i, o, batch_first=True),
        "gru_first": lambda: nn.GRU(i, o),
        "cell_loop": lambda: nn.GRUCell(i, o),
        "mha": lambda: nn.MultiheadAttention(o, 1, batch_first=True),
        "encoder": lambda: nn.TransformerEncoderLayer(o, 1, 2 * o, dropout=0.0, batch_first=True),
        "embedding": lambda: nn.Embedding(i, o),
    }
    return makers[layer]() if layer in makers else None


def run(owner: Owner, k: int, layer: str, x: Tensor, first: bool) -> Tensor:
    """Run a layer. `first`: time comes first in x."""
    return RUN.get(layer, _module)(owner, k, x, first)


def _module(owner: Owner, k: int, x: Tensor, first: bool) -> Tensor:
    return tape.weight(owner.full(k, "layer"), owner.part(k, "layer")(x))


def _bare_run(owner: Owner, k: int, x: Tensor, first: bool) -> Tensor:
    return tape.point(F.linear(x, owner.part(k, "w"), owner.part(k, "b")))


def _gated(owner: Owner, k: int, x: Tensor, first: bool) -> Tensor:
    a = tape.weight(owner.full(k, "a"), owner.part(k, "a")(x))
    left = tape.trail()
    b = tape.weight(owner.full(k, "b"), owner.part(k, "b")(x))
    tape.join(left, tape.trail())
    return tape.point(a * torch.sigmoid(b))


def _experts(owner: Owner, k: int, x: Tensor, first: bool) -> Tensor:
    """Each row goes to the expert that the sign of its first number chooses; an expert without rows does not run."""
    y, trails = x.new_zeros(len(x), owner.part(k, "a").out_features), []
    for part, chosen in (("a", x[:, 0] > 0), ("b", x[:, 0] <= 0)):
        rows = chosen.nonzero().squeeze(1)
        if len(rows):
            tape.form(rows=rows)
            y = y.index_put((rows,), tape.weight(owner.full(k, part), owner.part(k, part)(x[rows])))
            trails.append(tape.trail())
    tape.form()
    tape.join(*trails)
    return tape.point(y)


def _conv1d(owner: Owner, k: int, x: Tensor, first: bool) -> Tensor:
    tape.form()
    x = tape.point(x.permute(1, 2, 0) if first else x.transpose(1, 2))
    y = tape.weight(owner.full(k, "layer"), owner.part(k, "layer")(x))
    tape.form(int(first))
    return tape.point(y.permute(2, 0, 1) if first else y.transpose(1, 2))


def _recurrent(owner: Owner, k: int, x: Tensor, first: bool) -> Tensor:
    y, _ = owner.part(k, "layer")(x)
    return tape.weight(owner.full(k, "layer"), y)


def _time_first(owner: Owner, k: int, x: Tensor, first: bool) -> Tensor:
    """A recurrent layer that takes time first, in a network where the batch comes first, or not."""
    y, _ = owner.part(k, "layer")(x if first else x.transpose(0, 1))
    tape.form(1)
    y = tape.weight(owner.full(k, "layer"), y)
    tape.form(int(first))
    return y if first else tape.point(y.transpose(0, 1))


def _loop(step: Callable[[Owner, int, Tensor, Tensor], Tensor]) -> Callable[[Owner, int, Tensor, bool], Tensor]:
    def go(owner: Owner, k: int, x: Tensor, first: bool) -> Tensor:
        tape.form()
        steps = x.unbind(0 if first else 1)
        part = owner.part(k, "h").out_features if step is _rnn else owner.part(k, "layer").hidden_size
        h, states = steps[0].new_zeros(len(steps[0]), part), []
        for one in steps:
            h = step(owner, k, one, h)
            states.append(h)
        tape.form(int(first))  # on the trail of the last step: the states before it enter the next one
        return tape.point(torch.stack(states, 0 if first else 1))

    return go


def _rnn(owner: Owner, k: int, x: Tensor, h: Tensor) -> Tensor:
    a = tape.weight(owner.full(k, "x"), owner.part(k, "x")(x))
    left = tape.trail()
    b = tape.weight(owner.full(k, "h"), owner.part(k, "h")(h))
    tape.join(left, tape.trail())
    return tape.point(torch.tanh(tape.point(a + b)))


def _cell(owner: Owner, k: int, x: Tensor, h: Tensor) -> Tensor:
    return tape.weight(owner.full(k, "layer"), owner.part(k, "layer")(x, h))


def _attention(owner: Owner, k: int, x: Tensor, first: bool) -> Tensor:
    trails, made = [], []
    for part in "qkv":
        made.append(tape.weight(owner.full(k, part), owner.part(k, part)(x)))
        trails.append(tape.trail())
    tape.join(*trails)
    q, key, v = (t.transpose(0, 1) if first else t for t in made)
    mixed = F.scaled_dot_product_attention(q, key, v)
    mixed = tape.point(mixed.transpose(0, 1) if first else mixed)
    return tape.weight(owner.full(k, "o"), owner.part(k, "o")(mixed))


def _mha(owner: Owner, k: int, x: Tensor, first: bool) -> Tensor:
    x = x.transpose(0, 1) if first else x
    tape.form()
    y = tape.weight(owner.full(k, "layer"), owner.part(k, "layer")(x, x, x, need_weights=False)[0])
    tape.form(int(first))
    return tape.point(y.transpose(0, 1)) if first else y


def _encoder(owner: Owner, k: int, x: Tensor, first: bool) -> Tensor:
    x = x.transpose(0, 1) if first else x
    tape.form()
    y = tape.weight(owner.full(k, "layer"), owner.part(k, "layer")(x))
    tape.form(int(first))
    return tape.point(y.transpose(0, 1)) if first else y


def _hourglass(owner: Owner, k: int, x: Tensor, first: bool) -> Tensor:
    """Half the size and back, as in a U-Net."""
    y = tape.point(torch.relu(tape.weight(owner.full(k, "layer"), owner.part(k, "layer")(x))))
    y = tape.point(F.interpolate(y, size=x.shape[2:]))
    return tape.weight(owner.full(k, "up"), owner.part(k, "up")(y))


RUN: dict[str, Callable[[Owner, int, Tensor, bool], Tensor]] = {
    "bare": _bare_run,
    "bare_list": _bare_run,
    "gated": _gated,
    "experts": _experts,
    "conv1d": _conv1d,
    "lstm": _recurrent,
    "gru": _recurrent,
    "gru_first": _time_first,
    "rnn_loop": _loop(_rnn),
    "cell_loop": _loop(_cell),
    "attention": _attention,
    "mha": _mha,
    "encoder": _encoder,
    "hourglass": _hourglass,
}

"""The settings of a stack: what decides its numbers, as the command line takes them and `config.json` keeps them."""

from __future__ import annotations

from typing import Annotated, Any

import tyro
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from skipback.lab import choices, data, nets, spellings
from skipback.lab.errors import LabError
from skipback.methods import TABLE as METHODS

STARTS = ("same", "different")
LAYERS = {"dense": (1e-4, 100, None), "rd": (1e-3, 200, 1e-7)}
"""Of each layer: the rate, the epochs, and the change of the training error at which it stops, in the scripts."""


class Stack(BaseModel):
    """Everything that decides the numbers of one stack. The defaults are those of the scripts."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")] = Field(
        "mnist", description="of `skipback list data`; classes"
    )
    learners: int = Field(10, ge=1, le=10_000, description="K, networks that are stacked")
    start: str = Field("different", description="their weights: same, different")
    layer: str = Field("dense", description="on their outputs: dense, rd (random diagonals)")
    method: str = Field("dfa", description="of the learners: bp, shallow, or one with fixed feedback")
    feedback: str | None = Field("gaussian:1", description="of `skipback list draws`; each learner has its own")
    depth: int = Field(1, ge=1, le=10_000, description="hidden layers of a learner")
    width: int = Field(800, ge=1, le=1_000_000, description="units per hidden layer")
    activation: str = Field("tanh", description=", ".join(nets.ACTIVATIONS))
    std: float = Field(1.0, gt=0, allow_inf_nan=False, description="weights and biases start as N(0, STD^2)")
    lr: float = Field(1e-3, gt=0, allow_inf_nan=False, description="of the learners: SGD on the sum over a batch")
    epochs: int = Field(1, ge=1, le=1_000_000, description="of the learners")
    batch_size: int = Field(200, ge=1, description="samples per step, of learners and layer")
    layer_lr: float | None = Field(None, gt=0, allow_inf_nan=False, description="dense: 1e-4, of sums; rd: 1e-3, means")
    layer_epochs: int | None = Field(None, ge=1, le=1_000_000, description="at most (dense: 100, rd: 200)")
    layer_stop: float | None = Field(
        None, ge=0, lt=1, description="stop where the training error, a fraction, changes by no more (rd: 1e-7)"
    )
    prepare: str = Field("scale", description="of the inputs, as for train")
    seed: int = Field(1, ge=0, le=2**31 - 1, description="of what has no seed of its own")
    weight_seed: int | None = Field(None, ge=0, le=2**31 - 1, description="(default: --seed)")
    feedback_seed: int | None = Field(None, ge=0, le=2**31 - 1, description="(default: --seed)")
    order_seed: int | None = Field(None, ge=0, le=2**31 - 1, description="(default: --seed)")
    device: str = Field("auto", description=", ".join(choices.DEVICES))
    threads: int = Field(1, ge=1, le=1024, description="CPU threads")

    @field_validator("dataset")
    @classmethod
    def _classes(cls, value: str) -> str:
        name = spellings.check("data set", value, data.names())
        if data.Task.CLASSIFICATION not in data.card(name).tasks:
            raise LabError(f"{name!r} has no classes: stacked learners are classifiers")
        return name

    @field_validator("start", "layer", "method", "device")
    @classmethod
    def _known(cls, value: str, info: Any) -> str:
        tables: dict[str, Any] = {"start": STARTS, "layer": LAYERS, "method": METHODS, "device": choices.DEVICES}
        return spellings.check(info.field_name, value, tables[info.field_name])

    @field_validator("feedback", "activation")
    @classmethod
    def _with_parameters(cls, value: str | None, info: Any) -> str | None:
        forms = {"activation": nets.ACTIVATIONS, "feedback": choices.DRAWS}[info.field_name]
        return value if value is None else spellings.spelt(info.field_name, value, forms)

    @field_validator("prepare")
    @classmethod
    def _steps(cls, value: str) -> str:
        return choices.chain("prepare", value, choices.PREPARATIONS)

    @model_validator(mode="before")
    @classmethod
    def _what_the_layer_and_the_seeds_are(cls, values: Any) -> Any:
        """Fill what was left open, so that a folder says all that it was made with."""
        if not isinstance(values, dict):
            return values
        layer = spellings.alike("layer", str(values.get("layer", "dense")), LAYERS)
        rate, epochs, stop = LAYERS.get(layer, (None, None, None))
        seed = values.get("seed", cls.model_fields["seed"].default)
        usual = {"layer_lr": rate, "layer_epochs": epochs, "layer_stop": stop}
        usual |= dict.fromkeys(("weight_seed", "feedback_seed", "order_seed"), seed)
        return {**values, **{name: value for name, value in usual.items() if values.get(name) is None}}

    @property
    def name(self) -> str:
        """The folder's name."""
        return f"{self.method}-{self.start}-{self.layer}-{self.learners}-seed{self.seed}"


def usual() -> dict[str, Any]:
    """What a stack has where its configuration, perhaps an older one, says nothing."""
    return {name: field.default for name, field in Stack.model_fields.items()}

"""Models and layers of PyG: nodes, relations, edges with attributes, and pooled graphs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from entries import CLASSES, Entry, Inputs
from torch import Tensor, nn

NODES, EDGES, FEATURES, WIDTH, KINDS, GRAPHS = 24, 70, 12, 16, 3, 4
Arguments = Callable[[], tuple[Any, ...]]


def _library() -> Any:
    return importlib.import_module("torch_geometric.nn")


def dense(inputs: int, outputs: int) -> nn.Module:
    """What some layers have inside."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.Linear(outputs, outputs))


class Two(nn.Module):
    """Two layers of a kind, and a ReLU between."""

    def __init__(self, make: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.first, self.second = make(FEATURES, WIDTH), make(WIDTH, CLASSES)

    def forward(self, x: Tensor, *edges: Tensor) -> Tensor:
        return self.second(self.first(x, *edges).relu(), *edges)


class Between(nn.Module):
    """Layers that keep their width, between two dense ones. Some read the features of the start as well."""

    def __init__(self, make: Callable[[], nn.Module], start: bool = False) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.layers, self.start = nn.ModuleList([make() for _ in range(2)]), start

    def forward(self, x: Tensor, *edges: Tensor) -> Tensor:
        x = first = self.enter(x).relu()
        for layer in self.layers:
            x = layer(x, first, *edges).relu() if self.start else layer(x, *edges).relu()
        return self.leave(x)


class Pooled(nn.Module):
    """A network of nodes, pooled to one output for each graph."""

    def __init__(self, nodes: nn.Module, pool: str) -> None:
        super().__init__()
        self.nodes, self.leave, self.pool = nodes, nn.Linear(WIDTH, CLASSES), pool

    def forward(self, x: Tensor, edges: Tensor, batch: Tensor) -> Tensor:
        pooled: Tensor = getattr(_library(), self.pool)(self.nodes(x, edges), batch)
        return self.leave(pooled)


def _edges() -> Tensor:
    return torch.randint(0, NODES, (2, EDGES))


def nodes() -> Inputs:
    """Nodes and edges."""
    return (torch.randn(NODES, FEATURES), _edges()), {}


def kinds() -> Inputs:
    """Edges of several kinds."""
    return (torch.randn(NODES, FEATURES), _edges(), torch.randint(0, KINDS, (EDGES,))), {}


def attributes(count: int) -> Callable[[], Inputs]:
    """Edges with attributes, between 0 and 1."""
    return lambda: ((torch.randn(NODES, FEATURES), _edges(), torch.rand(EDGES, count)), {})


def graphs() -> Inputs:
    """Several graphs in one."""
    return (torch.randn(NODES, FEATURES), _edges(), torch.arange(NODES) * GRAPHS // NODES), {}


def _entry(name: str, build: Callable[[], nn.Module], inputs: Callable[[], Inputs] = nodes) -> Entry:
    return Entry(library="torch_geometric", name=name, build=build, inputs=inputs)


def _two(name: str, inputs: Callable[[], Inputs] = nodes, changes: dict[str, Any] | None = None) -> Entry:
    def build() -> nn.Module:
        return Two(lambda i, o: getattr(_library(), name)(i, o, **(changes or {})))

    return _entry(name, build, inputs)


def _of_dense(name: str, double: bool = False, inputs: Callable[[], Inputs] = nodes, **more: Any) -> Entry:
    """A layer that is given its network."""

    def build() -> nn.Module:
        return Two(lambda i, o: getattr(_library(), name)(dense(2 * i if double else i, o), **more))

    return _entry(name, build, inputs)


def _between(
    name: str, start: bool = False, arguments: Callable[[], tuple[Any, ...]] | None = None, **more: Any
) -> Entry:
    def build() -> nn.Module:
        given = arguments() if arguments else (WIDTH,)
        return Between(lambda: getattr(_library(), name)(*given, **more), start)

    return _entry(name, build)


def _model(name: str, inputs: Callable[[], Inputs] = nodes, **changes: Any) -> Entry:
    def build() -> nn.Module:
        net: nn.Module = getattr(importlib.import_module("torch_geometric.nn.models"), name)(**changes)
        return net

    return _entry(name, build, inputs)


DEGREES = {"aggregators": ["mean", "max"], "scalers": ["identity", "amplification"], "deg": torch.tensor([1, 3, 5, 2])}
PLAIN = """
ARMAConv ClusterGCNConv EGConv FeaStConv FiLMConv GATConv GATv2Conv GCNConv GENConv GeneralConv GraphConv
HypergraphConv LEConv MFConv ResGatedGraphConv SAGEConv SGConv SuperGATConv TAGConv TransformerConv
"""
STACK = {"in_channels": FEATURES, "hidden_channels": WIDTH, "num_layers": 3, "out_channels": CLASSES}
PARTS = {"in_channels": FEATURES, "hidden_channels": WIDTH, "out_channels": CLASSES}


def _pooled(name: str, pool: str) -> Entry:
    def build() -> nn.Module:
        return Pooled(getattr(_library(), name)(FEATURES, WIDTH, num_layers=2, out_channels=WIDTH), pool)

    return _entry(f"{name}+{pool}", build, graphs)


ENTRIES = [
    *(_two(name, changes={"num_bases": 2, "num_heads": 2} if name == "EGConv" else None) for name in PLAIN.split()),
    _two("ChebConv", changes={"K": 3}),
    _two("SSGConv", changes={"alpha": 0.1}),
    _two("PNAConv", changes=DEGREES),
    _two("RGCNConv", kinds, {"num_relations": KINDS}),
    _two("RGATConv", kinds, {"num_relations": KINDS}),
    _two("GMMConv", attributes(2), {"dim": 2, "kernel_size": 3}),
    _two("PDNConv", attributes(5), {"edge_dim": 5, "hidden_channels": 8}),
    _of_dense("GINConv"),
    _of_dense("EdgeConv", double=True),
    _of_dense("GINEConv", inputs=attributes(5), edge_dim=5),
    _between("AntiSymmetricConv"),
    _between("FAConv", start=True),
    _between("GCN2Conv", start=True, alpha=0.1),
    _between("GatedGraphConv", num_layers=2),
    _between("GPSConv", arguments=lambda: (WIDTH, _library().GCNConv(WIDTH, WIDTH), 4)),
    *(_model(name, **STACK) for name in "EdgeCNN GAT GCN GIN GraphSAGE PMLP".split()),
    _model("PNA", **STACK, **DEGREES),
    _model("GraphUNet", **PARTS, depth=2),
    _model("LINKX", **PARTS, num_nodes=NODES, num_layers=2),
    _model("SGFormer", graphs, **PARTS, trans_dropout=0.0, gnn_dropout=0.0),
    _model("Polynormer", graphs, **PARTS, local_layers=3, in_dropout=0.0, dropout=0.0, global_dropout=0.0),
    _model("AttentiveFP", lambda: ((*attributes(5)()[0], graphs()[0][2]), {}), **STACK, edge_dim=5, num_timesteps=2),
    *(_pooled(name, pool) for name in ("GCN", "GIN") for pool in ("global_mean_pool", "global_max_pool")),
]

"""benchmarks/gpu.py: says in one sentence that there is no GPU, and its code runs on tiny shapes on the CPU."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from tape import Tape

from skipback.lab.bench.shapes import SHAPES, Shape

TINY = Shape(line="6-(8x2)-10", batch=4, input=(6,), sizes={"depth": 2, "width": 8})


@pytest.fixture
def gpu(monkeypatch):
    """benchmarks/gpu.py as a module, everything in it as small as can be."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    module = importlib.import_module("gpu")
    monkeypatch.setitem(SHAPES, "tiny", TINY)
    monkeypatch.setattr(module, "WIDTHS", (4,))
    monkeypatch.setattr(module, "WAVES", {"width 4, batch 4": (4, 4, 4)})
    monkeypatch.setattr(module.many, "MEMBERS", 2)
    monkeypatch.setattr(module.wave, "LAYERS", 2)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_in_one_sentence_and_ends_with_2(gpu, capsys, tmp_path):
    assert gpu.main(["--out", str(tmp_path / "speed.json")]) == 2
    said = capsys.readouterr()
    assert said.err == f"gpu.py measures a GPU, and torch {torch.__version__} sees no CUDA device here\n"
    assert not said.out
    assert list(tmp_path.iterdir()) == []


def test_all_parts_run_on_the_cpu_and_are_written(gpu, tmp_path):
    out = tmp_path / "gpu" / "speed.json"
    flags = "--device cpu --steps 2 --seconds 0.001 --shapes tiny --depths 1 --out".split()
    assert gpu.main([*flags, str(out)]) == 0
    result = json.loads(out.read_text())
    assert set(result) == {"environment", "checked", "speed", "members", "wavefront", "memory"}
    assert result["environment"]["device"] == "cpu"
    assert {row["largest_difference"] for row in result["checked"].values()} == {0.0}
    assert len(result["checked"]) == 20
    variants = result["speed"]["tiny"]["variants"]
    steps = {f"{name} {way}" for name in ("f3", "drtp", "dfa") for way in ("step", "captured")}
    assert set(variants) == {"backprop", "backprop captured", "rounds", *steps}
    assert variants["backprop"]["times_as_fast"] == 1.0
    assert all(v["median_ms"] > 0 for name, v in variants.items() if name != "rounds")
    assert set(result["members"]["784-4-10, f3"]) >= {"one by one", "together", "captured, one after the other"}
    assert set(result["wavefront"]["width 4, batch 4, drtp"]) >= {"plain", "wave", "plain, captured"}
    assert set(result["memory"]["mib"]) >= {"backprop", "dfa step", "f3 step"}


def test_the_opponent_in_a_graph_is_backprop(gpu, monkeypatch):
    """By the tape: its replays train, to the bits of the loop."""
    ways = importlib.import_module("gpu_ways")
    nets = []
    build = ways.Shape.build
    monkeypatch.setattr(ways.Shape, "build", lambda shape: nets.append(build(shape)) or nets[-1])
    monkeypatch.setattr(ways, "CudaGraphs", lambda device: Tape())
    in_graph, one_by_one = ways.graphed_backprop(TINY), ways.plain.backprop(TINY, "adam")
    for _ in range(3):
        one_by_one()  # the warm-up of the other
    for _ in range(4):
        in_graph()
        one_by_one()
    pairs = list(zip(nets[0].parameters(), nets[1].parameters(), strict=True))
    assert all(torch.equal(p, q) for p, q in pairs)
    assert not torch.equal(pairs[0][0], next(build(TINY).parameters()))

"""The verb `bench`: what it measures, what it writes, what it refuses."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from skipback import precision
from skipback.lab.bench import energy, figure, memory, options, plain, table, taught, timing, verb, ways
from skipback.lab.bench.shapes import SHAPES, Shape
from skipback.lab.cli import main
from skipback.methods import TABLE as METHODS

TINY = Shape(line="6-(8x3)-10", batch=8, input=(6,), sizes={"depth": 3, "width": 8})


@pytest.fixture(scope="module")
def benched(tmp_path_factory):
    """One bench of a tiny shape, through the command line."""
    out = tmp_path_factory.mktemp("bench")
    flags = "--shapes tiny --methods f3 --optimizers adam --seconds 0.1 --depths none --out".split()
    assert main(["bench", *flags, str(out)]) == 0
    return out, json.loads((out / "bench.json").read_text())


def test_bench_writes_the_promised_keys_and_a_figure(benched):
    out, result = benched
    assert set(result) == {"environment", "speed", "memory", "energy"}
    assert {"torch", "processor", "threads", "command", "load"} <= set(result["environment"])
    assert result["environment"]["threads"] == 1
    of = result["speed"]["tiny"]["adam"]
    assert of["rounds"] >= 5
    assert of["variants"]["backprop"]["times_as_fast"] == 1.0
    assert all(v["median_ms"] > 0 and v["times_as_fast"] > 0 for v in of["variants"].values())
    plain = {"backprop", *(f"backprop, {x}" for x in ("default optimizer", "checkpointed", "accumulated over 4"))}
    assert plain | {"f3 step", "f3 backward", "f3 step, by autograd"} <= set(of["variants"])
    assert (out / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_has_a_line_for_each_variant(benched):
    _, result = benched
    lines = table.text({**result, "memory": {"width": 9, "batch": 7, "mib": {"f3 step": {"4": 1.26}}}}).splitlines()
    assert re.fullmatch(r"times as fast, adam +tiny", lines[0])
    assert "backprop                       1.00" in [re.sub(r"  +", " " * 23, line) for line in lines]
    assert re.fullmatch(r"f3 step +1\.3", next(x for x in reversed(lines) if x.startswith("f3 step")))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--shapes S9", "--shapes: unknown shape 'S9'"),
        ("--methods dfaa", "--methods: unknown method 'dfaa'; did you mean 'dfa'?"),
        ("--optimizers lion", "unknown optimizer 'lion'"),
        ("--depths 4,x", "'x' is no number of hidden layers"),
        ("--seconds 0", "seconds"),
        ("--device tpu", "--device: unknown device 'tpu'"),
    ],
)
def test_bad_arguments_end_with_exit_code_2_and_one_line(flags, said, capsys, tmp_path):
    assert main(["bench", *flags.split(), "--out", str(tmp_path / "b")]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "b").exists()


def test_a_device_that_is_absent_and_a_compiler_that_is_absent(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    def compile(*_, **__):
        raise RuntimeError("No working C++ compiler found\nand a long trace")

    monkeypatch.setattr("torch.compile", compile)
    for flags, said in (
        ("--device cuda", "sees no CUDA device"),
        ("--compile", "here it fails: No working C++ compiler found\n"),
    ):
        assert main(["bench", *flags.split(), "--out", str(tmp_path / "b")]) == 2
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1
    assert not (tmp_path / "b").exists()


def test_a_folder_that_cannot_be_written_costs_no_hour(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert main(["bench", "--out", str(tmp_path / "file" / "b")]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_what_was_measured_before_an_interruption_is_kept(monkeypatch, capsys, tmp_path):
    found = iter([({"rounds": 5, "steps_per_round": 1, "variants": {}, "refused": {}}, {})])

    def of_shape(*_):
        try:
            return next(found)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(verb, "of_shape", of_shape)
    assert main(["bench", "--shapes", "S1,S2", "--optimizers", "sgd", "--out", str(tmp_path)]) == 130
    assert f"{tmp_path / 'bench.json'} holds the shapes that were done" in capsys.readouterr().err
    assert list(json.loads((tmp_path / "bench.json").read_text())["speed"]) == ["S1"]


def test_an_interruption_before_the_first_shape_promises_no_file(monkeypatch, capsys, tmp_path):
    def of_shape(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(verb, "of_shape", of_shape)
    assert main(["bench", "--shapes", "S1", "--out", str(tmp_path)]) == 130
    assert f"nothing was measured yet, and nothing written to {tmp_path}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["interrupted", "unread"])
def test_the_process_that_measures_memory_ends_without_a_trace(how):
    order = json.dumps({"jobs": [["backprop", 2]] * 9, "width": 8, "batch": 4, "device": "cpu"})
    command = [sys.executable, "-m", "skipback.lab.bench.memory", order]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert float(child.stdout.readline()) >= 0  # it works
        if how == "unread":
            child.stdout.close()
        else:
            child.send_signal(signal.SIGINT)
        assert child.stderr.read() == ""
        assert child.wait() == -(signal.SIGINT if how == "interrupted" else signal.SIGPIPE)


def test_help_fits_one_screen(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    out = capsys.readouterr().out
    assert out.count("\n") < 30
    assert "S6" in out


def test_quick_leaves_what_a_flag_says():
    found = options.chosen(options.Bench(quick=True, shapes="S3"))
    assert (found.shapes, found.methods) == ("S3", "dfa,f3")


def test_quick_measures_what_a_minute_allows(monkeypatch, capsys, tmp_path):
    """Four shapes and optimizers of 1.5 s beside a few slow steps, no energy, and one process for all of memory."""
    timed, jobs = [], []

    def of_shape(shape, optimizer, options, counters):
        timed.append((shape.line, optimizer, options.seconds, options.methods, counters))
        step = {"median_ms": 1.0, "times_as_fast": 1.0}
        return {"rounds": 5, "steps_per_round": 1, "variants": {"backprop": step}, "refused": {}}, {}

    def peaks(found, *_):
        jobs.append(found)
        return [1.0] * len(found)

    monkeypatch.setattr(verb, "of_shape", of_shape)
    monkeypatch.setattr(memory, "peaks", peaks)
    monkeypatch.setattr(energy, "counters", lambda _: pytest.fail("energy takes a second for each variant"))
    assert main(["bench", "--quick", "--device", "cpu", "--out", str(tmp_path)]) == 0
    assert [rest for _, _, *rest in timed] == [[1.5, "dfa,f3", []]] * 4
    assert {line for line, *_ in timed} == {SHAPES["S1"].line, SHAPES["S2"].line}
    assert len(jobs) == 1
    assert len(jobs[0]) == 12
    assert max(depth for _, depth in jobs[0]) == 16
    assert "energy: not measured, --quick leaves it out" in capsys.readouterr().out


def test_every_method_can_be_measured_by_its_route():
    assert options.chosen(options.Bench(methods="all")).methods.split(",") == list(METHODS)
    makes = {way: make for name in METHODS for way, make in ways.of_method(TINY, name, "sgd").items()}
    calls, refused = ways.built(makes)
    assert refused == {}
    assert list(calls) == list(makes)
    assert all(f"{name} backward" in calls for name in METHODS)
    whole = "bp fa usf frsf brsf kp weight_mirror fg_w fg_a lg_fg_a".split()
    assert [name for name in METHODS if f"{name} step" in calls] == [name for name in METHODS if name not in whole]


def test_a_method_that_refuses_a_network_is_a_dash_with_its_reason(monkeypatch, capsys, tmp_path):
    """Indirect feedback refuses batch norm. Five methods are two groups, each with plain backprop in it."""
    normed = Shape(line="normed", batch=8, input=(6,), sizes={"depth": 2, "width": 8, "batch_norm": True})
    monkeypatch.setitem(SHAPES, "tiny", normed)
    monkeypatch.setattr(verb, "LASTS", 1e-3)
    flags = "--shapes tiny --methods dfa,fa,ifa,fg_w,f3 --optimizers sgd --seconds 0.01 --depths none --out"
    assert main(["bench", *flags.split(), str(tmp_path)]) == 0
    of = json.loads((tmp_path / "bench.json").read_text())["speed"]["tiny"]["sgd"]
    assert "'2' is a batch norm" in of["refused"]["ifa backward"]
    assert not [name for name in of["variants"] if name.startswith("ifa")]
    assert of["variants"]["backprop"]["times_as_fast"] == 1.0
    found = [name for name in of["variants"] if name in ("backprop", "dfa step", "f3 step")]
    assert found == ["backprop", "dfa step", "f3 step"]
    assert {"fa backward", "fg_w backward", "f3 step"} <= set(of["variants"])
    lines = capsys.readouterr().out.splitlines()
    assert [re.sub(" +", " ", line) for line in lines if line.startswith("ifa step ")] == ["ifa step -"]
    assert [line for line in lines if line.startswith("ifa step, tiny, sgd: ValueError: module")]


def test_when_plain_backprop_fails_so_does_the_bench():
    def fails():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        ways.built({"backprop": fails})


def test_a_shape_is_all_on_its_device():
    """The meta device computes shapes alone, and refuses a tensor that was left on the CPU. It has no fused kernels."""
    shape = dataclasses.replace(TINY, device="meta")
    assert not [name for name in ways.ways(shape, ["f3"], "sgd") if "oneDNN" in name]
    for parts in (1, 4):
        plain.backprop(shape, "sgd", fused=None, parts=parts)()
    assert {t.device.type for t in (*shape.data(), *shape.build().parameters())} == {"meta"}


def test_environment_names_the_device_and_the_clock(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "NVIDIA H200")
    found = verb.environment("c", torch.device("cuda"))
    assert (found["processor"], found["device"]) == ("NVIDIA H200", "cuda")
    assert "GPU" in found["clock"]
    assert verb.environment("c")["clock"] == "CPU time"


def weights_after(make, monkeypatch, steps=2):
    """The network's parameters after some steps of a variant."""
    built = []
    monkeypatch.setattr(Shape, "build", lambda self, build=Shape.build: built.append(build(self)) or built[-1])
    call = make()
    for _ in range(steps):
        call()
    return [p.detach().clone() for p in built[-1].parameters()]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_all_variants_of_one_method_do_the_same_work(optimizer, monkeypatch):
    """A variant that skips work would look fast."""
    for family in ("backprop", "f3", "dfa"):
        makes = {k: v for k, v in ways.ways(TINY, ["f3", "dfa"], optimizer).items() if k.startswith(family)}
        assert len(makes) >= 3
        found = {name: weights_after(make, monkeypatch) for name, make in makes.items()}
        first, *others = found.values()
        start = list(TINY.build().parameters())
        assert all((a - b).abs().max() > 1e-7 for a, b in zip(first, start, strict=True))
        for other in others:
            torch.testing.assert_close(other, first, rtol=0, atol=2e-6)


def test_the_way_without_closed_form_has_none(monkeypatch):
    seen = []
    real = taught.learner
    monkeypatch.setattr(taught, "learner", lambda *args: seen.append(real(*args)) or seen[-1])
    for closed in (True, False):
        taught.step(TINY, "f3", "sgd", closed_form=closed)()
    kinds = [{type(rule).__name__ for _, rule in learner._stepper.chain.hidden} for learner in seen]
    assert kinds == [{"Dense"}, {"ModulesBlock"}]


def test_a_method_with_a_memory_is_measured_after_its_first_epoch():
    learner = taught.learner(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 10)), "f3", torch.randn(8, 6))
    assert bool(learner.memory.seen.all())
    assert learner.memory.all_seen
    assert learner.memory.input_checks_left == 0


def test_update_in_backward_is_plain_sgd(monkeypatch):
    a = weights_after(lambda: plain.backprop_in_place(TINY), monkeypatch)
    b = weights_after(lambda: plain.backprop(TINY, "sgd"), monkeypatch)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-7)


def test_memory_of_a_step_is_that_of_a_few_activations():
    """In 20 layers 1024 x 400 numbers (1.6 MiB) would be 31 MiB, if they were kept. What fails stops no other."""
    why, f3, fa = memory.peaks([("nope step", 20), ("f3 step", 20), ("fa backward", 20)], 400, 1024)
    assert why.startswith("LabError: unknown method 'nope'")
    assert 3 * 1.56 < f3 < 6 * 1.56
    assert 20 * 1.56 < fa < 40 * 1.56


def test_memory_is_measured_for_the_best_way_of_each_method():
    found = memory.of_methods(["f3", "fg_w"])
    assert found == [*(way for way in memory.MAKE if way.startswith("backprop")), "f3 step", "fg_w backward"]
    assert "backprop, accumulated over 4" in found


def test_what_kills_its_process_is_told():
    assert memory.apart(lambda: 2.5) == 2.5
    assert memory.apart(lambda: os.kill(os.getpid(), signal.SIGKILL)) == "its process was ended by signal 9"


def test_shapes_have_the_published_sizes():
    sizes = {name: sum(p.numel() for p in SHAPES[name].build().parameters()) for name in ("S1", "cnn", "transformer")}
    assert sizes == {"S1": 397_510, "cnn": 15 * 26 + 40 * 376 + 128 * 4001 + 10 * 129, "transformer": 965_898}


@pytest.fixture
def powercap(tmp_path):
    """A folder as Linux shows RAPL's counters: one of a package, and one inside it that it includes."""
    for name, value in (("intel-rapl:0", 90), ("intel-rapl:0:0", 5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{value}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("100\n")
    return tmp_path


class Nvml:
    """As nvidia-ml-py, for one GPU that takes what it is told to."""

    class NVMLError(Exception):
        pass

    def __init__(self, counts=True):
        self.mj, self.now, self.counts = 1000.0, 0.0, counts

    def nvmlInit(self):  # noqa: N802
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        if uuid != "GPU-abc":
            raise self.NVMLError("Not Found")
        return "handle"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):  # noqa: N802
        assert handle == "handle"
        if not self.counts:
            raise self.NVMLError("Not Supported")
        return round(self.mj)

    def work(self, seconds, watts):
        self.now += seconds
        self.mj += 1e3 * seconds * watts


def test_energy_reads_whole_packages_and_a_counter_that_starts_again(powercap):
    (found,), why = energy.counters(torch.device("cpu"), powercap)
    assert (found.name, why) == ("RAPL intel-rapl:0", "")
    assert found.read() == 90
    assert found.spent(90, 30) == pytest.approx(40e-6)
    assert found.spent(30, 90) == pytest.approx(60e-6)


def test_energy_says_why_there_is_none(tmp_path, monkeypatch):
    assert energy.counters(torch.device("cpu"), tmp_path) == ([], f"no RAPL counter can be read in {tmp_path}")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "pip install nvidia-ml-py" in energy.nvml("abc")[1]
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(counts=False))
    assert energy.nvml("abc") == ([], "NVML does not count the energy of this GPU: Not Supported")
    assert "Not Found" in energy.nvml("another")[1]


def test_joules_of_a_step_are_above_what_the_device_takes_asleep(monkeypatch):
    gpu = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", gpu)
    counters, _ = energy.nvml("abc")
    calls = {"step": lambda: gpu.work(0.3, 25), "light": lambda: gpu.work(0.7, 7)}
    found = energy.joules(calls, counters, now=lambda: gpu.now, sleep=lambda seconds: gpu.work(seconds, 5))
    assert [c.name for c in counters] == ["NVML"]
    assert found == pytest.approx({"step": 20 * 0.3, "light": 2 * 0.7}, rel=1e-3)


def test_times_are_per_step():
    calls = []
    timing.repeated(lambda: calls.append(1), 3)()
    assert len(calls) == 3
    found = timing.speeds({"a": [6.0, 12.0], "b": [3.0, 3.0]}, "a", steps=3)
    assert found == {"a": {"median_ms": 3000.0, "times_as_fast": 1.0}, "b": {"median_ms": 1000.0, "times_as_fast": 3.0}}


class Later:
    """A device that works on its own: a call returns at once, and its work is done when somebody waits."""

    def __init__(self):
        self.queued = self.now = 0.0

    def wait(self):
        self.now, self.queued = self.now + self.queued, 0.0

    def call(self, seconds):
        def call():
            self.queued += seconds

        return call


def test_work_of_a_device_that_goes_on_alone_is_waited_for():
    later = Later()
    clock = timing.waiting(later.wait, lambda: later.now)
    calls = {"backprop": later.call(0.02), "fast": later.call(0.01)}
    found = verb.timed(calls, 0.45, "backprop", now=clock)
    assert found["steps_per_round"] == verb.LEAST
    assert found["rounds"] == 5
    assert found["variants"]["fast"] == pytest.approx({"median_ms": 10.0, "times_as_fast": 2.0})


def test_the_clock_is_cpu_time_on_the_cpu_and_waits_on_a_gpu(monkeypatch):
    waited = []
    monkeypatch.setattr("torch.cuda.synchronize", lambda: waited.append(1))
    assert timing.clock(torch.device("cpu")) is time.process_time
    now = timing.clock(torch.device("cuda"))
    assert now() <= now()
    assert len(waited) == 2


def test_what_would_compile_once_more_is_not_timed(monkeypatch):
    run = torch.compile(lambda x: x + 1, dynamic=False, backend="eager")
    run(torch.zeros(2))
    with plain.no_compiling():
        run(torch.zeros(2))
        with pytest.raises(RuntimeError, match="recompile"):
            run(torch.zeros(3))


def test_the_guard_holds_in_the_rounds_and_not_before():
    held, seen = [], []

    @contextlib.contextmanager
    def guard():
        held.append(1)
        yield
        held.pop()

    later = Later()
    work = later.call(0.01)
    clock = timing.waiting(later.wait, lambda: later.now)
    verb.timed({"a": lambda: seen.append(len(held)) or work()}, 0.05, "a", now=clock, guard=guard)
    assert seen[:5] == [0] * 5
    assert set(seen[5:]) == {1}


def test_no_two_ways_look_alike_in_the_figure():
    found = figure.looks(memory.of_methods(list(METHODS)))
    assert len({(look["color"], look["marker"], look["linestyle"]) for look in found.values()}) == len(found) == 31


def test_the_onednn_route_is_on_inside_and_as_before_outside():
    matmul = torch.backends.mkldnn.matmul
    before, seen = matmul.fp32_precision, []
    ways.through_onednn(lambda: seen.append(matmul.fp32_precision))()
    assert seen == ["bf16"]
    assert matmul.fp32_precision == before


@pytest.mark.skipif(not precision.exact(), reason="oneDNN rounds here, or is not there")
def test_each_step_and_plain_backprop_have_a_way_by_onednn_and_take_it(monkeypatch):
    seen = []
    for name in ("step", "backprop"):
        monkeypatch.setattr(ways, name, lambda *args, **how: lambda: seen.append((how, precision.product())))
    found, end = ways.ways(TINY, ["f3", "dfa"], "adam"), ", oneDNN float32"
    fast = {name.removesuffix(end): make for name, make in found.items() if name.endswith(end)}
    assert set(fast) == {"backprop", "f3 step", "dfa step"}
    before = precision.product()
    precision.choose_product("none")
    try:
        for name, make in fast.items():
            make()()
            found[name]()()
    finally:
        precision.choose_product(before)
    assert seen == [({}, "bf16"), ({}, "none")] * 3


def test_each_way_of_backprop_is_built_as_it_is_called(monkeypatch):
    seen = []
    monkeypatch.setattr(ways, "backprop", lambda *args, **how: seen.append(how))
    found = ways.ways(TINY, [], "adam", compiled=True)
    for name in ("", ", default optimizer", ", checkpointed", ", accumulated over 4", ", compiled"):
        found["backprop" + name]()
    through = [{"through": plain.checkpointed}, {"parts": 4}, {"through": plain.compiled}]
    assert seen == [{}, {"fused": None}, *through]


def test_no_way_by_onednn_on_another_device(monkeypatch):
    monkeypatch.setattr(precision, "exact", lambda: True)
    found = ways.ways(dataclasses.replace(TINY, device="cuda"), ["f3"], "adam")
    assert not [name for name in found if "oneDNN" in name]

"""Speed: shares of time by the host's clock and by a stand-in for events, counted evaluations."""

import time

import pytest
import torch

from ctm_fast.losses import CM, DSM
from ctm_fast.losses.objective import Batch
from ctm_fast.rng import stream
from ctm_fast.trainer import throughput
from ctm_fast.trainer.throughput import DeviceLaps, Evaluations, HostLaps, Throughput
from tests.trainer import tiny

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


class Host:
    """A clock that is set."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Host()
    monkeypatch.setattr(throughput, "time", made)
    return made


def test_time_belongs_to_the_part_that_ends(clock):
    laps = HostLaps()
    for part, seconds in (("data", 1.0), ("ctm", 5.0), ("data", 2.0)):
        clock.now += seconds
        laps(part)
    assert laps.taken() == {"data": 3.0, "ctm": 5.0}
    clock.now += 4.0
    laps("ctm")
    assert laps.taken() == {"ctm": 4.0}


class Queue:
    """A GPU that has worked off its queue up to `done`; recording takes one second of it."""

    def __init__(self):
        self.recorded, self.done, self.made = 0, 0, 0

    def stream(self, device):
        return f"stream of {device}"

    def event(self):
        self.made += 1
        return Event(self)


class Event:
    def __init__(self, queue):
        self.queue, self.at = queue, 0

    def record(self, stream):
        assert stream == f"stream of {GPU}"
        self.queue.recorded += 1
        self.at = self.queue.recorded

    def query(self):
        return self.at <= self.queue.done

    def elapsed_time(self, end):
        assert self.query() and end.query(), "a GPU would have to be waited for"
        return 1000.0 * (end.at - self.at)


def test_intervals_of_a_gpu_are_read_once_it_has_passed_them():
    queue = Queue()
    laps = DeviceLaps(GPU, queue.event, queue.stream)
    for part in ("data", "prepare", "ctm", "ctm"):
        laps(part)
    assert laps.taken() == {}
    queue.done = 4
    assert laps.taken() == {"data": 1.0, "prepare": 1.0, "ctm": 1.0}
    queue.done = 5
    laps("data")
    assert laps.taken() == {"ctm": 1.0}


def test_events_are_used_again_and_few_wait():
    queue = Queue()
    laps = DeviceLaps(GPU, queue.event, queue.stream)
    for _ in range(10 * throughput.PENDING):
        queue.done = max(0, queue.recorded - 3)
        laps("data")
    assert queue.made < throughput.PENDING + 10
    queue.done = queue.recorded
    assert laps.taken() == {"data": 10.0 * throughput.PENDING}


def test_a_line_says_how_fast(clock):
    teacher = tiny.denoiser(destination=False)
    speed = Throughput(CPU, teacher, processes=2)
    speed.start()
    for _ in range(2):
        clock.now += 1.0
        speed.lap("data")
        teacher(torch.zeros(5, 1, 4, 4), torch.ones(5))
        clock.now += 3.0
        speed.lap("prepare")
    expected = {"sec_per_kimg": 400.0, "images_per_s": 2.5, "teacher_evals_per_s": 2.5}
    assert speed.entry(20) == {**expected, "share": {"data": 0.25, "prepare": 0.75}}
    speed.stop()
    teacher(torch.zeros(5, 1, 4, 4), torch.ones(5))
    clock.now += 50.0
    speed.start()
    clock.now += 1.0
    again = speed.entry(8)
    assert again["images_per_s"] == 8 and again["teacher_evals_per_s"] == 0 and not again["share"]
    speed.stop()


def test_what_cannot_be_counted_is_left_out():
    assert "teacher_evals_per_s" not in started(None).entry(1)
    assert "teacher_evals_per_s" not in started(lambda x, sigma, labels: x).entry(1)
    teacher = tiny.denoiser(destination=False)
    hooks = dict(teacher.net._forward_pre_hooks)
    speed = started(teacher)
    speed.stop()
    assert teacher.net._forward_pre_hooks == hooks, "the teacher is left as it was"


def started(teacher):
    speed = Throughput(CPU, teacher)
    speed.start()
    return speed


def test_evaluations_of_a_run_are_those_of_the_solver():
    run = tiny.trainer(CM(teacher_steps=2), steps=3, batch_size=8)
    counter = Evaluations(run.teacher, CPU)
    counter.start()
    run.fit()
    # Heun calls the network twice per step.
    assert counter.read() == 3 * 8 * 2 * 2


def test_laps_cost_little():
    objective, size = DSM(), (1, 4, 4)
    laps, begin = HostLaps(), time.perf_counter()
    for _ in range(1000):
        laps("data")
    lap = (time.perf_counter() - begin) / 1000
    batch = Batch(torch.zeros(2, *size), None, objective.draw(2, size, stream(0)))
    begin = time.perf_counter()
    objective.prepare(batch, tiny.trainer(objective).models)
    assert lap < max(1e-4, time.perf_counter() - begin)


@pytest.mark.gpu
def test_evaluations_of_a_gpu_count_replays_and_wait_for_nothing():
    from ctm_fast.inference.graphs import GraphPool

    device = torch.device("cuda")
    model = tiny.denoiser(destination=False).to(device)
    counter = Evaluations(model, device)
    counter.start()
    pool, x = GraphPool(), torch.zeros(5, 1, 4, 4, device=device)
    one = torch.ones(5, device=device)
    with torch.no_grad():
        pool.run("net", model, x, one)
        torch.cuda.synchronize()
        counter.note()
        torch.cuda.synchronize()
        before = counter.read()
        for _ in range(4):
            pool.run("net", model, x, one)
    counter.note()
    torch.cuda.synchronize()
    assert counter.read() - before == 20


@pytest.mark.gpu
def test_shares_of_a_gpu():
    laps = DeviceLaps(GPU)
    a = torch.randn(2048, 2048, device="cuda")
    for _ in range(20):
        a = a @ a / 100
    laps("ctm")
    laps("data")
    torch.cuda.synchronize()
    found = laps.taken()
    assert found["ctm"] > found["data"] >= 0

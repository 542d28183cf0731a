"""A training step never waits for the device, except where it must.

Without a GPU the step runs on the meta device, whose numbers nobody can read: what reads them
raises, and a dispatch mode sees copies that would wait.
"""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ctm_fast.losses import CTM, DSM, Batch, Models, PseudoHuber
from ctm_fast.rng import stream
from ctm_fast.timesteps import TrajectoryLevels
from ctm_fast.trainer import captured, gradients
from ctm_fast.trainer.distributed import World
from ctm_fast.trainer.gradients import StepGradients
from tests.trainer import tiny

from .adversary import Adversarial, Heads
from .test_all_passes import trio
from .test_captured import FakePool

META = torch.device("meta")
READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique", "equal")


class Waits(TorchDispatchMode):
    """Raises at operations that make the host wait for a device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = torch.utils._pytree.tree_leaves((args, kwargs))
        there = [x for x in given if isinstance(x, torch.Tensor) and x.device.type != "cpu"]
        name = func.overloadpacket.__name__
        if there and any(name.startswith(read) for read in READS):
            raise AssertionError(f"{func} waits for the device")
        if there and name.startswith("index") and any(x.dtype == torch.bool for x in there):
            raise AssertionError(f"{func} with a mask waits for the device")
        result = func(*args, **kwargs)
        if name in ("_to_copy", "copy_"):
            # Towards the CPU always, away from it unless the memory is pinned and told so.
            target = result.device
            source = next(x for x in reversed(args) if isinstance(x, torch.Tensor)).device
            if target != source and (target.type == "cpu" or not _non_blocking(func, args, kwargs)):
                raise AssertionError(f"{func} from {source} to {target} waits")
        return result


def _non_blocking(func: Any, args: Any, kwargs: Any) -> bool:
    position = [a.name for a in func._schema.arguments].index("non_blocking")
    return bool(args[position] if len(args) > position else kwargs.get("non_blocking", False))


def test_the_mode_sees_what_waits():
    there, here = torch.ones(3, device=META), torch.ones(3)
    with Waits():
        here.to(META, non_blocking=True), there.clone(), here.sum().item()
        for wait in (
            lambda: here.to(META),
            lambda: there.copy_(here),
            lambda: there.sum().item(),
            lambda: there.nonzero(),
            lambda: there[there > 0],
            lambda: torch.equal(there, there),
        ):
            with pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
                wait()
        there.copy_(here, non_blocking=True)


def step(objective: Any, models: Models, batch: Batch, **options: Any) -> Any:
    """Two steps: in the first, tables are made and copied."""
    options = {"batch_size": len(batch), "microbatch": 3, "seed": 0, **options}
    compute = StepGradients(objective, models, World(), **options)
    where = next(models.student.parameters()).device
    for k in range(2):
        with Waits() if k else nullcontext():
            moved = batch.to(where)
            compute.prepare(k, moved, 0.0)
            numbers = compute(k, moved, 0.0)
            packed = numbers.packed()
    return packed


SMALL = {"num_scales": 6, "levels": TrajectoryLevels(max_steps=2)}
CASES = {
    "dsm": DSM(),
    "pixels": CTM(**SMALL, distance=PseudoHuber()),
    "features": CTM(**SMALL),
    "per image": CTM(num_scales=6, levels=TrajectoryLevels(per_sample=True, max_steps=3)),
    "student outside": CTM(**SMALL, target_inner="target", estimate_outer="student"),
    "matching": CTM(**SMALL, target_inner="none", target_matching=True, denoising_frequency=0.5),
    "pairs": CTM(**SMALL, pairs=2, teacher_slots=3, teacher_solver="multistep"),
    "heun_denoiser": CTM(**SMALL, self_teacher="heun_denoiser"),
    "jump": CTM(**SMALL, self_teacher="jump"),
    "gan": Adversarial(**SMALL),
    "iterative_jump": CTM(**SMALL, self_teacher="iterative_jump"),
}
WAYS = {
    "": {},
    "U-Nets": {},
    "one pass": {"microbatch": None, "one_pass": True},
    "captured": {"pool": FakePool()},
}
RUNS = [(case, "") for case in CASES] + [("features", way) for way in list(WAYS)[1:]]


@pytest.mark.parametrize(("case", "way"), RUNS)
def test_a_step_never_reads_the_device(case, way, monkeypatch):
    # The meta device has no random state.
    monkeypatch.setattr(gradients, "shared_dropout", lambda device, seed: nullcontext())
    objective, size = CASES[case], tiny.SIZE
    students = tiny.denoiser(), tiny.denoiser().requires_grad_(False)
    models = Models(*(m.to(META) for m in (*students, tiny.denoiser(destination=False))))
    if case == "gan":
        models = dataclasses.replace(models, companion=Heads().to(META))
    if way == "U-Nets":
        models, size = trio(), 8
        models = Models(*(m.to(META) for m in (models.student, models.target, models.teacher)))
    draw = objective.draw(8, (1, size, size), stream(0))
    batch = Batch(torch.zeros(8, 1, size, size), None, draw)
    assert step(objective, models, batch, **WAYS[way]).device == META


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"microbatch": None, "one_pass": True}, {"capture": True}])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_never_waits_on_a_gpu(precision, options):
    options = {"microbatch": 4, **options}
    run = tiny.trainer(precision=precision, steps=8, device="cuda", dropout=0.5, **options)
    run.fit(4)  # kernels are compiled, tables and graphs made
    signals = type("Signals", (), {"asked": None})()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with run._feed:
            for _ in range(3):
                run._advance(signals)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert run.step == 7
    assert captured.graph_pool(torch.device("cuda")) is not None

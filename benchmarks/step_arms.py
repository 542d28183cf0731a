"""The arms of the training step: the published arrangement around several networks, and ours."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ctm_fast.inference.freeze import freeze
from ctm_fast.losses import CTM, Batch
from ctm_fast.losses.objective import Models
from ctm_fast.models import UNet
from ctm_fast.trainer import distributed
from ctm_fast.trainer.config import TrainConfig
from ctm_fast.trainer.ema import Rate, averages
from ctm_fast.trainer.gradients import StepGradients
from ctm_fast.trainer.scaling import Update
from ctm_fast.trainer.target import Target

from . import networks
from .arms import COMPILED, Arm, Named, Ready, cast, compiled, ours, plain_ops, pool
from .bench_solve import in_dtype, official_model
from .contest import Case, name
from .official_net import OfficialNet
from .official_step import OfficialStep
from .outcome import OFFICIAL

RATES = (0.999, 0.999)  # of the average that is sampled from, and of the target
LR = 1e-30  # so small that no weight changes: every call does the same work on the same numbers


@dataclass(frozen=True)
class Task:
    """What all arms share; they copy the networks.

    Attributes:
        objective: CTM with a fixed number of steps.
        teacher, student: networks of ours on the CPU, float32; the target begins as the student.
        sigmas: (num_scales,) on the device.
        batch: images, labels and random numbers of the step, on the device.
        microbatch: of the published arrangement.
        own_microbatch: of the other arms; None: the whole batch.
        distance: key of `official_step.DISTANCES`.
    """

    objective: CTM
    teacher: UNet
    student: UNet
    sigmas: Tensor
    batch: Batch
    microbatch: int
    own_microbatch: int | None
    distance: str

    @property
    def own(self) -> int:
        """Images per backward pass of the other arms."""
        return min(self.own_microbatch or len(self.batch), len(self.batch))

    @property
    def gate(self) -> Batch:
        """What is judged: one microbatch.

        As published every microbatch has an adaptive weight of its own; ours has one per step.
        """
        return fresh(self.batch.slice(0, min(self.microbatch, self.own, len(self.batch))))


def fresh(batch: Batch) -> Batch:
    """The batch with dictionaries of its own."""
    return replace(batch, draw=dict(batch.draw), host=dict(batch.host))


def exact(case: Case, task: Task) -> Callable[[], Named]:
    """Gradients of the published arrangement in float32."""

    def answer() -> Named:
        step, module = _official(case, task, torch.float32)
        step(task.gate)
        return gradients(module.source)

    return answer


def gradients(module: nn.Module) -> Named:
    """All gradients as one vector, in the order of the names; zeros where there is none."""
    parts = [
        (torch.zeros_like(p) if p.grad is None else p.grad).detach().float().flatten()
        for _, p in sorted(module.named_parameters())
    ]
    return {"gradient": torch.cat(parts)}


def arms_of(case: Case, task: Task) -> Iterator[Arm]:
    """The arms of plain PyTorch and of this package."""

    def official(dtype: torch.dtype) -> Callable[[], Ready]:
        def build() -> Ready:
            step, module = _official(case, task, dtype)
            return published(task, step, module, module.source, fused=False)

        return build

    def plain(mode: str | None) -> Callable[[], Ready]:
        return lambda: _plain(case, task, mode)

    yield Arm("official", official(case.dtype), OFFICIAL)
    if case.dtype != torch.float32:
        yield Arm("official-fp32", official(torch.float32), OFFICIAL, torch.float32)
    yield Arm("eager", plain(None))
    for word, mode in COMPILED.items():
        yield Arm(word, plain(mode))
    yield ours(lambda: _own(case, task))


def _official(case: Case, task: Task, dtype: torch.dtype) -> tuple[OfficialStep, OfficialNet]:
    student = OfficialNet(task.student, dtype).to(case.device)
    target = OfficialNet(task.student, dtype).to(case.device).requires_grad_(False)
    teacher = OfficialNet(task.teacher, dtype).to(case.device).requires_grad_(False)
    step = OfficialStep(
        student=official_model(task.teacher, student),
        target=official_model(task.teacher, target),
        teacher=official_model(task.teacher, teacher),
        parameters=list(student.parameters()),
        last_layer=student.last_layer.weight,
        sigmas=task.sigmas,
        microbatch=task.microbatch,
        distance=task.distance,
    )
    return step, student


def published(
    task: Task, step: Callable[[Batch], Any], student: nn.Module, source: nn.Module, fused: bool
) -> Ready:
    """The step, the optimizer and two averages; tensor by tensor unless `fused`."""
    parameters = list(student.parameters())
    optimizer = torch.optim.RAdam(parameters, lr=LR, foreach=fused or None)
    kept = [[p.detach().clone() for p in parameters] for _ in RATES]

    @torch.no_grad()
    def average() -> None:
        for mean, rate in zip(kept, RATES):
            if fused:
                torch._foreach_lerp_(mean, list[Tensor](parameters), 1 - rate)
                continue
            for own, new in zip(mean, parameters):
                own.mul_(rate).add_(new, alpha=1 - rate)

    def work() -> None:
        step(fresh(task.batch))
        optimizer.step()
        average()

    def result() -> Named:
        step(task.gate)
        return gradients(source)

    return Ready(work, result)


def _plain(case: Case, task: Task, mode: str | None) -> Ready:
    """Our modules in plain PyTorch, under autocast, within the published arrangement."""
    order: Any = torch.channels_last
    student: Any = copy.deepcopy(task.student).to(case.device)
    student = student.to(memory_format=order)
    target = copy.deepcopy(student).requires_grad_(False)
    teacher = cast(copy.deepcopy(task.teacher), case.dtype, case.device)

    def called(net: nn.Module, frozen: bool) -> Callable[..., Any]:
        call: Callable[..., Any] = net
        if mode is not None:
            call = compiled(net, mode, frozen=frozen, device=case.device)
        if frozen:
            return in_dtype(call, case.dtype)
        short = case.dtype in (torch.bfloat16, torch.float16)

        def inside(x: Tensor, *others: Any) -> Any:
            x = x.contiguous(memory_format=order)
            with torch.autocast(case.device, case.dtype, enabled=short):
                return call(x, *others)

        return inside

    step = OfficialStep(
        student=official_model(task.teacher, called(student, False)),
        target=official_model(task.teacher, called(target, False)),
        teacher=official_model(task.teacher, called(teacher, True)),
        parameters=list(student.parameters()),
        last_layer=student.last_layer.weight,
        sigmas=task.sigmas,
        microbatch=task.own,
        distance=task.distance,
    )
    for each in (step.student, step.target, step.teacher):
        each.undone = False
    ready = published(task, step, student, student, fused=True)
    return Ready(_plain_call(ready.work), _plain_call(ready.result))


def _plain_call(call: Callable[[], Any]) -> Callable[[], Any]:
    def inside() -> Any:
        with plain_ops():
            return call()

    return inside


def _own(case: Case, task: Task) -> Ready:
    """The trainer's own step: prepare, gradients, update, averages."""
    student = networks.denoiser(copy.deepcopy(task.student)).to(case.device)
    student.requires_grad_(True)
    short = case.dtype in (torch.bfloat16, torch.float16)
    student.dtype = case.dtype if short else None
    config = TrainConfig(
        lr=LR, ema=RATES[:1], target_ema=RATES[1], precision=PRECISION[name(case.dtype)]
    )
    target = Target(student, Rate(config.target_ema))
    teacher = freeze(networks.denoiser(task.teacher), case.dtype, case.device)
    models = Models(student, target.network, teacher)
    kept = [*averages(student, config), target]
    update = Update(student, config, kept)
    whole = _step_gradients(case, task, models, len(task.batch))
    judged = len(task.gate)
    gate = whole if judged == len(task.batch) else _step_gradients(case, task, models, judged)

    def work() -> None:
        batch = fresh(task.batch)
        whole.prepare(0, batch, 0.0)
        numbers = whole(0, batch, 0.0, update.scale)
        update(numbers.total, LR, [average.decay(0, len(batch)) for average in kept])
        target.refresh()

    def result() -> Named:
        batch = task.gate
        gate.prepare(0, batch, 0.0)
        gate(0, batch, 0.0)
        return gradients(student.net)

    return Ready(work, result)


PRECISION: dict[str, Any] = {
    "float32": "fp32",
    "float64": "fp32",
    "bfloat16": "bf16",
    "float16": "fp16",
}


def _step_gradients(case: Case, task: Task, models: Models, batch: int) -> StepGradients:
    whole, graphs = task.own >= batch, pool(case.device)
    return StepGradients(
        task.objective,
        models,
        distributed.World(),
        batch_size=batch,
        microbatch=None if whole else task.own,
        seed=0,
        # A graph of every microbatch, or one backward pass for all terms.
        one_pass=whole and graphs is None and case.dtype != torch.float16,
        pool=graphs,
    )

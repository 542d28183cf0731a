"""The training steps of clones, called on the images of a case."""

from __future__ import annotations

import inspect
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ctm_fast.losses import Batch
from ctm_fast.models import SongConfig

from .arms import Absent, Arm, Ready
from .contest import Case
from .official_step import DISTANCES
from .outcome import PEER
from .peer_networks import wrapped_song
from .peers import Clone
from .step_arms import Task, published

NOTE = (
    "its own step on random numbers of its own, so not judged; the distance is ours, after its "
    "resizing to 224 pixels; its teacher without the second wrapper"
)


def step_arms(clones: list[Clone], case: Case, task: Task) -> Iterator[Arm]:
    """The arms of all clones: float32 on a CPU and float16 on a GPU, as they are published."""
    dtype = torch.float16 if case.device == "cuda" else torch.float32
    for clone in clones:
        yield Arm(clone.name, partial(_ready, clone, case, task), PEER, dtype)


class PeerStep:
    """The losses of a clone and their gradient, microbatch by microbatch.

    Args:
        clone: of sony/ctm or ctm-cifar10.
        task: networks, images and options.
        device: "cpu" or "cuda".

    Raises:
        Absent: the clone has no such step, or it cannot be built here.
    """

    def __init__(self, clone: Clone, task: Task, device: str) -> None:
        if clone.name not in ("sony-ctm", "ctm-cifar10"):
            raise Absent(f"{clone.name} has no training step of CTM")
        if not isinstance(task.teacher.config, SongConfig) or task.teacher.img_resolution != 32:
            raise Absent(f"{clone.name}'s step is called for networks of 32 x 32 pixels only")
        self.clone, self.task = clone, task
        fp16 = device == "cuda"
        self.student = _Module(wrapped_song(clone, task.student, fp16).to(device))
        self.target = wrapped_song(clone, task.student, fp16).to(device).requires_grad_(False)
        self.losses = _losses(clone, task, wrapped_song(clone, task.teacher, fp16).to(device))

    def __call__(self, batch: Batch) -> Tensor:
        """Mean loss, (); the gradient is in `p.grad` of the student."""
        total = torch.zeros((), device=batch.images.device)
        for p in self.student.parameters():
            p.grad = None
        with self.clone.active():
            for start in range(0, len(batch), self.task.microbatch):
                part = batch.slice(start, min(start + self.task.microbatch, len(batch)))
                terms = self.losses.ctm_losses(
                    step=0,
                    model=self.student,
                    x_start=part.images,
                    model_kwargs={} if part.labels is None else {"y": part.labels},
                    target_model=self.target,
                    num_heun_step=part.draw["num_steps"],
                    diffusion_training_=True,
                )
                loss = terms["consistency_loss"].mean() + terms["denoising_loss"].mean()
                loss.backward()
                total += loss.detach()
        return total


class _Module(nn.Module):
    """A network where clones look for the one inside DistributedDataParallel."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """What the network answers."""
        return self.module(*args, **kwargs)


def _losses(clone: Clone, task: Task, teacher: nn.Module) -> Any:
    """The clone's object that computes the losses, with its own defaults."""
    scripts, resample = clone.load("cm.script_util"), clone.load("cm.resample")
    diffusion = clone.load("cm.karras_diffusion")
    known: dict[str, Any] = {}
    for name, function in inspect.getmembers(scripts, inspect.isfunction):
        if name.endswith("_defaults") and len(inspect.signature(function).parameters) == 1:
            known |= function("cifar10")
    args = Namespace(**known)
    args.data_name, args.loss_norm, args.training_mode = "cifar10", "lpips", "ctm"
    args.start_scales = args.end_scales = len(task.sigmas)
    distance = DISTANCES[task.distance]
    with clone.active():
        losses = diffusion.KarrasDenoiser(
            args,
            resample.create_named_schedule_sampler(args, "uniform", args.start_scales),
            resample.create_named_schedule_sampler(args, "halflognormal", args.start_scales),
            feature_extractor=lambda a, b: distance(2 * a - 1, 2 * b - 1),
        )
    losses.teacher_model = teacher.eval().requires_grad_(False)
    return losses


def _ready(clone: Clone, case: Case, task: Task) -> Ready:
    step = PeerStep(clone, task, case.device)
    ready = published(task, step, step.student, step.student, fused=False)
    return Ready(ready.work, ready.result, NOTE, judged=False)

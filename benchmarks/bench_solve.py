"""Times of the teacher's solve: n Heun steps from random levels, as published and ours."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctm_fast.inference.freeze import freeze
from ctm_fast.inference.teacher import TeacherSolve
from ctm_fast.models import ADMConfig
from ctm_fast.sigmas import karras_sigmas
from ctm_fast.solvers.heun import heun_solve_reference

from . import networks
from .arms import COMPILED, Arm, Named, Ready, cast, compiled, ours, plain_ops, pool, selected
from .contest import Case, contest
from .flops import flops
from .official_model import OfficialModel
from .official_net import OfficialNet
from .outcome import OFFICIAL, PEER, Outcome
from .peer_networks import Network, built
from .peers import Clone, recognise

GRIDS = {"adm": 40, "song": 18}
"""Noise levels of the published runs."""


@dataclass(frozen=True)
class Settings:
    """What `measure` measures."""

    networks: tuple[str, ...] = ("ddpmpp-cifar10",)
    batches: tuple[int, ...] = (4,)
    steps: tuple[int, ...] = (2,)  # Heun steps n of every image, two network calls each
    microbatch: int | None = 11  # of the official arrangement; None: the whole batch at once
    dtype: torch.dtype = torch.bfloat16
    device: str = "cpu"
    rounds: int = 5
    arms: tuple[str, ...] = ()
    compiled: bool = True
    peers: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Problem:
    """Images at their levels, and how far they go."""

    x: Tensor  # (batch, C, H, W) float32, image j at sigmas[start[j]]
    sigmas: Tensor  # (num_scales,) float32
    start: Tensor  # (batch,) int64
    steps: int  # of every image
    labels: Tensor | None

    def parts(self, size: int | None) -> Iterator[Problem]:
        """The images in microbatches."""
        size = size or len(self.x)
        for first in range(0, len(self.x), size):
            rows = slice(first, first + size)
            labels = None if self.labels is None else self.labels[rows]
            yield Problem(self.x[rows], self.sigmas, self.start[rows], self.steps, labels)


def grid_of(net: Any) -> Tensor:
    """(num_scales,) float32: the grid that a network of this family was distilled on."""
    family = "adm" if isinstance(net.config, ADMConfig) else "song"
    return karras_sigmas(GRIDS[family]).float()


def problem(net: Any, batch: int, steps: int, device: str) -> Problem:
    """Noisy images at random levels, the same for every arm.

    Raises:
        ValueError: for more steps than the grid has.
    """
    sigmas = grid_of(net)
    if not 1 <= steps < len(sigmas):
        raise ValueError(f"steps must be in [1, {len(sigmas) - 1}], got {steps}")
    generator = torch.Generator().manual_seed(3)
    start = torch.randint(len(sigmas) - steps, (batch,), generator=generator)
    noise = torch.randn(networks.images(net, batch).shape, generator=generator)
    x = networks.images(net, batch) + sigmas[start].reshape(-1, 1, 1, 1) * noise
    labels = networks.classes(net, batch)
    labels = None if labels is None else labels.to(device)
    return Problem(x.to(device), sigmas.to(device), start.to(device), steps, labels)


def measure(settings: Settings) -> Iterator[list[Outcome]]:
    """Outcomes of one network, batch and number of steps after another.

    Raises:
        ValueError: for an unknown network, too many steps, or a peer that is not recognised.
    """
    clones = [recognise(path) for path in settings.peers]
    for name in settings.networks:
        net = networks.network(name)
        for batch in settings.batches:
            for steps in settings.steps:
                options = {"steps": steps, "microbatch": settings.microbatch}
                case = Case(
                    *("solve", name, batch, settings.dtype, settings.device, options),
                    flops=2 * steps * flops(net, batch),
                    loose=2.0,
                )
                given = problem(net, batch, steps, settings.device)
                arms = [*_arms(case, net, given), *_peer_arms(clones, case, net, given)]
                arms = selected(arms, settings.arms, settings.compiled)
                yield contest(case, arms, exact(case, net, given), settings.rounds)


def exact(case: Case, net: Any, given: Problem) -> Callable[[], Named]:
    """The solve by the plain formula with a float32 network of references."""

    def answer() -> Named:
        model = networks.denoiser(copy.deepcopy(net)).to(case.device)
        with plain_ops(), torch.no_grad():
            x = heun_solve_reference(
                model, given.x, given.sigmas, given.start, given.steps, given.labels
            )
        return {"x": x}

    return answer


def official_model(net: Any, call: Callable[..., Any]) -> OfficialModel:
    """The published arrangement around any network."""
    return OfficialModel(call, adm=isinstance(net.config, ADMConfig))


def in_parts(model: OfficialModel, given: Problem, size: int | None) -> Tensor:
    """The published solve, microbatch by microbatch."""
    with torch.inference_mode():
        solved = [
            model.solve(part.x, part.sigmas, part.start, part.steps, part.labels)
            for part in given.parts(size)
        ]
        return torch.cat(solved)


def _ready(work: Callable[[], Tensor], note: str = "") -> Ready:
    return Ready(work, lambda: {"x": work()}, note)


def _arms(case: Case, net: Any, given: Problem) -> Iterator[Arm]:
    size = case.options["microbatch"]

    def official(dtype: torch.dtype) -> Callable[[], Ready]:
        def build() -> Ready:
            model = official_model(net, OfficialNet(net, dtype).to(case.device))
            return _ready(lambda: in_parts(model, given, size))

        return build

    def plain(mode: str | None) -> Callable[[], Ready]:
        def build() -> Ready:
            module = cast(copy.deepcopy(net), case.dtype, case.device)
            call = module
            if mode is not None:
                call = compiled(module, mode, frozen=True, device=case.device)
            model = official_model(net, in_dtype(call, case.dtype))

            def work() -> Tensor:
                with plain_ops():
                    return in_parts(model, given, None)

            return _ready(work, "the whole batch at once")

        return build

    def solved() -> Ready:
        model = freeze(networks.denoiser(net), case.dtype, case.device, batch=case.batch)
        solve = TeacherSolve(model, given.sigmas, pool=pool(case.device))
        start = given.start.cpu()  # there nothing waits for it
        return _ready(lambda: solve(given.x, start, given.steps, given.labels))

    yield Arm("official", official(case.dtype), OFFICIAL)
    if case.dtype != torch.float32:
        yield Arm("official-fp32", official(torch.float32), OFFICIAL, torch.float32)
    yield Arm("eager", plain(None))
    for name, mode in COMPILED.items():
        yield Arm(name, plain(mode))
    yield ours(solved)


def in_dtype(call: Callable[..., Any], dtype: torch.dtype) -> Callable[..., Any]:
    """A network called with images cast to its dtype, in channels-last order."""

    def inside(x: Tensor, *others: Any) -> Any:
        return call(x.to(dtype, memory_format=torch.channels_last), *others)

    return inside


def _peer_arms(clones: list[Clone], case: Case, net: Any, given: Problem) -> Iterator[Arm]:
    """The networks of clones in the published arrangement of the solve."""

    def build(clone: Clone) -> Ready:
        model = peer_model(clone, built(clone, net), case, net)
        note = "its network in our writing of the published solve"
        return _ready(lambda: in_parts(model, given, case.options["microbatch"]), note)

    for clone in clones:
        yield Arm(clone.name, partial(build, clone), PEER)


def peer_model(clone: Clone, found: Network, case: Case, net: Any) -> OfficialModel:
    """The published arrangement around the network of a clone."""
    found.module.to(case.device).eval().requires_grad_(False)
    if case.dtype != torch.float32:
        found.half(case.dtype)

    def call(x: Tensor, *others: Any) -> Tensor:
        args, kwargs = found.arguments(x.to(found.takes or case.dtype), *others)
        with clone.active():
            return found.module(*args, **kwargs)

    return official_model(net, call)

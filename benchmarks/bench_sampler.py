"""Times of few-step sampling, from noise to images in [-1, 1]."""

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
from ctm_fast.sampler import Sampler
from ctm_fast.sigmas import SIGMA_MAX, karras_sigmas

from . import networks
from .arms import COMPILED, Arm, Named, Ready, cast, compiled, ours, plain_ops, selected
from .bench_solve import in_dtype, official_model, peer_model
from .contest import Case, contest
from .flops import flops
from .official_net import OfficialNet
from .outcome import OFFICIAL, PEER, Outcome
from .peer_networks import built
from .peers import Clone, recognise


@dataclass(frozen=True)
class Settings:
    """What `measure` measures."""

    networks: tuple[str, ...] = ("ctm-ddpmpp-cifar10",)
    batches: tuple[int, ...] = (1, 8, 64)
    steps: tuple[int, ...] = (1, 2)  # network calls per image
    dtype: torch.dtype = torch.bfloat16
    device: str = "cpu"
    rounds: int = 9
    arms: tuple[str, ...] = ()
    compiled: bool = True
    peers: tuple[Path, ...] = ()


def measure(settings: Settings) -> Iterator[list[Outcome]]:
    """Outcomes of one network, batch and number of steps after another.

    Raises:
        ValueError: for an unknown network, one that cannot jump, or a peer that is not recognised.
    """
    clones = [recognise(path) for path in settings.peers]
    for name in settings.networks:
        net = networks.network(name)
        if not net.has_destination:
            raise ValueError(f"network {name!r} cannot jump; choose one of ctm-*")
        for batch in settings.batches:
            for steps in settings.steps:
                case = Case(
                    *("sampler", name, batch, settings.dtype, settings.device, {"steps": steps}),
                    flops=steps * flops(net, batch),
                    loose=2.0,
                )
                arms = [*_arms(case, net), *_peer_arms(clones, case, net)]
                arms = selected(arms, settings.arms, settings.compiled)
                yield contest(case, arms, exact(case, net), settings.rounds)


def levels(case: Case) -> Tensor:
    """(steps + 1,) float32: CTM's grid for so many jumps."""
    return karras_sigmas(case.options["steps"] + 1).float().to(case.device)


def noise(case: Case, net: Any) -> Tensor:
    """(batch, C, H, W) unit noise, the same for every arm that is judged."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(networks.images(net, case.batch).shape, generator=generator).to(case.device)


def exact(case: Case, net: Any) -> Callable[[], Named]:
    """The images of a float32 network of references."""

    def answer() -> Named:
        model = official_model(net, copy.deepcopy(net).to(case.device))
        with plain_ops():
            return {"images": _sampled(case, net, model.sample, noise(case, net))}

    return answer


def _sampled(case: Case, net: Any, sample: Callable[..., Tensor], unit: Tensor) -> Tensor:
    labels = networks.classes(net, case.batch)
    labels = None if labels is None else labels.to(case.device)
    return sample(unit * SIGMA_MAX, levels(case), labels)


def _plain_ready(case: Case, net: Any, sample: Callable[..., Tensor]) -> Ready:
    """An arm that draws noise for the whole batch and takes the jumps."""
    given = noise(case, net)

    def work() -> Tensor:
        with torch.inference_mode(), plain_ops():
            return _sampled(case, net, sample, torch.randn_like(given))

    def result() -> Named:
        with torch.inference_mode(), plain_ops():
            return {"images": _sampled(case, net, sample, given)}

    return Ready(work, result)


def _arms(case: Case, net: Any) -> Iterator[Arm]:
    def official(dtype: torch.dtype) -> Callable[[], Ready]:
        def build() -> Ready:
            model = official_model(net, OfficialNet(net, dtype).to(case.device))
            return _plain_ready(case, net, model.sample)

        return build

    def plain(mode: str | None) -> Callable[[], Ready]:
        def build() -> Ready:
            module = cast(copy.deepcopy(net), case.dtype, case.device)
            model = official_model(net, in_dtype(module, case.dtype))
            if mode is not None:
                # The whole jump is one graph, not the network alone.
                jump = compiled(model.jump, mode, frozen=True, device=case.device)
                model.jump = jump  # type: ignore[method-assign]
            return _plain_ready(case, net, model.sample)

        return build

    def own() -> Ready:
        model = freeze(networks.denoiser(net), case.dtype, case.device, batch=case.batch)
        sampler = Sampler(model, steps=case.options["steps"])
        labels = networks.classes(net, case.batch)

        def work() -> Tensor:
            return sampler(case.batch, labels=labels, seed=0)

        def result() -> Named:
            given = noise(case, net) * SIGMA_MAX
            return {"images": sampler(case.batch, labels=labels, noise=given)}

        return Ready(work, result, "noise from one seed per image")

    yield Arm("official", official(case.dtype), OFFICIAL)
    if case.dtype != torch.float32:
        yield Arm("official-fp32", official(torch.float32), OFFICIAL, torch.float32)
    yield Arm("eager", plain(None))
    for name, mode in COMPILED.items():
        yield Arm(name, plain(mode))
    yield ours(own)


def _peer_arms(clones: list[Clone], case: Case, net: Any) -> Iterator[Arm]:
    """The networks of clones in the published arrangement of the jump."""

    def build(clone: Clone) -> Ready:
        found = built(clone, net)
        ready = _plain_ready(case, net, peer_model(clone, found, case, net).sample)
        ready.note = "its network in our writing of the published sampler"
        return ready

    for clone in clones:
        yield Arm(clone.name, partial(build, clone), PEER)

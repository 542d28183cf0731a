"""Training and measuring what has no row yet."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ctm_fast.denoiser import Denoiser
from ctm_fast.evaluation import grid_png

from .methods import METHODS, Method, noise_arms
from .noise import gradient_noise
from .records import REAL, TEACHER, Row
from .training import trained, trained_teacher
from .worlds import World, world_named

NFES = (1, 2, 4, 8)
NOISE = "gradient noise: "  # begins the names of rows about gradients
PICTURED = 0  # seed whose samples are drawn
NOISE_AT = 0.5  # training position at which gradients are compared


@dataclass(frozen=True)
class Settings:
    """What `run` trains and measures."""

    worlds: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    budgets: dict[str, float]  # by world
    pictures: Path | None = None  # folder for samples of the seed PICTURED
    options: dict[str, dict[str, Any]] = field(default_factory=dict)  # of worlds, by name


def run(settings: Settings, known: Collection[tuple[str, str, int]]) -> Iterator[Row]:
    """Rows of all methods, seeds and worlds that are not `known`.

    Raises:
        ValueError: for an unknown world or method.
    """
    unknown = sorted(set(settings.methods) - set(METHODS))
    if unknown:
        raise ValueError(f"unknown methods {unknown}; choose from {list(METHODS)}")
    asked = [METHODS[name] for name in settings.methods]
    for name in settings.worlds:
        world = world_named(name, **settings.options.get(name, {}))
        methods = [method for method in asked if name in method.worlds]
        for seed in settings.seeds:
            for row in _seed(settings, world, methods, seed, known):
                if row.key not in known:
                    yield row


def _seed(
    settings: Settings,
    world: World,
    methods: list[Method],
    seed: int,
    known: Collection[tuple[str, str, int]],
) -> Iterator[Row]:
    budget = settings.budgets[world.name]
    wanted = [method for method in methods if (world.name, method.name, seed) not in known]
    if not wanted and (world.name, TEACHER, seed) in known:
        return
    teacher = trained_teacher(world, seed)
    about = (world.name, budget, world.batch_size)
    if (world.name, REAL, 0) not in known and seed == settings.seeds[0]:
        yield _row(about, REAL, 0, {"": world.real()})
    if (world.name, TEACHER, seed) not in known:
        yield _row(about, TEACHER, seed, _teacher(world, teacher, seed))
    for method in tqdm(wanted, desc=f"{world.name}, seed {seed}", unit="method"):
        done = trained(method, world, teacher, seed, budget)
        samplers = {nfe: world.sampler(done.model, nfe) for nfe in NFES}
        measures = {str(nfe): world.measures(s, seed) for nfe, s in samplers.items()}
        if settings.pictures is not None and seed == PICTURED:
            strips = [world.picture(sampler) for sampler in samplers.values()]
            _draw(settings.pictures / picture_name(world.name, method.name), strips)
        if method.name == "ECT":
            for arm, objective in noise_arms(world.name).items():
                trace = gradient_noise(objective, done.model, world, NOISE_AT)
                yield _row(about, NOISE + arm, seed, {"": {"trace": trace}})
        spent = (done.steps, done.evaluations, done.seconds)
        yield _row(about, method.name, seed, measures, spent)


def picture_name(world: str, method: str) -> str:
    """File name of a method's samples."""
    return f"{world}-{re.sub('[^a-z0-9]+', '-', method.lower())}.png"


def _row(
    about: tuple[str, float, int],
    method: str,
    seed: int,
    measures: dict[str, dict[str, float]],
    spent: tuple[int, float, float] = (0, 0.0, 0.0),
) -> Row:
    world, budget, batch_size = about
    return Row(world, method, seed, budget, batch_size, *spent, measures)


def _teacher(world: World, teacher: Denoiser, seed: int) -> dict[str, dict[str, float]]:
    """Euler steps, which are one network call each, and EDM's 18 Heun steps."""
    found = {str(nfe): world.measures(world.sampler(teacher, nfe, "euler"), seed) for nfe in NFES}
    return found | {"35": world.measures(world.sampler(teacher, 18, "heun"), seed)}


def _draw(path: Path, strips: list[torch.Tensor]) -> None:
    """A row for each number of network calls; single pictures lie in one row."""
    size = max(strips[0].shape[-2:])
    columns = len(strips[0]) if len(strips[0]) > 1 else len(strips)
    grid_png(torch.cat(strips), path, ncol=columns, scale=max(2, 40 // size))

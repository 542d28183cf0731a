"""Training checkpoints: exact round trip, damage, other runs' files."""

import dataclasses
import json

import torch
from PIL import Image

from ctm_fast import models
from ctm_fast.data.image_folder import ImageFolder
from ctm_fast.denoiser import Denoiser
from ctm_fast.losses import CTM, OBJECTIVES
from ctm_fast.precond import Preconditioning
from ctm_fast.rng import stream
from ctm_fast.trainer import TrainConfig, state
from tests.trainer import tiny


def test_free_options_are_options():
    assert {field.name for field in dataclasses.fields(TrainConfig)} >= state.FREE


def test_registered_parts_can_be_rebuilt_from_the_description():
    net = models.build("ctm-digits", model_channels=8, channel_mult=(1,))
    described = state.describe(
        TrainConfig(), CTM(num_scales=6), Denoiser(net), None, tiny.dataset()
    )
    plain = json.loads(json.dumps(described))
    assert plain == described
    assert OBJECTIVES.from_json(plain["objective"]) == CTM(num_scales=6)
    assert models.net_from_json(plain["student"]["net"]).config == net.config
    assert Preconditioning.from_json(plain["student"]["precond"]) == Preconditioning()


def test_foreign_parts_are_described_by_name():
    described = state.describe_objective(tiny.Failing(at=0.25))
    assert described["class"].endswith("tiny:Failing")
    assert described["at"] == 0.25
    assert state.describe_denoiser(tiny.denoiser())["net"]["class"].endswith("TinyNet")


def test_teachers_are_told_apart_by_their_weights():
    one, two = tiny.denoiser(seed=1), tiny.denoiser(seed=1)
    parts = (TrainConfig(), CTM(), tiny.denoiser())
    described = [state.describe(*parts, teacher, tiny.dataset()) for teacher in (one, two)]
    assert described[0] == described[1]
    with torch.no_grad():
        two.net.first.bias[0] += 1e-6
    assert state.describe(*parts, two, tiny.dataset())["teacher"] != described[0]["teacher"]


def test_how_data_is_read_is_part_of_a_run(tmp_path):
    images = torch.randint(0, 256, (2, 6, 6), dtype=torch.uint8, generator=stream(1))
    for number, image in enumerate(images):
        Image.fromarray(image.numpy()).save(tmp_path / f"{number}.png")
    parts = (TrainConfig(), CTM(), tiny.denoiser(), None)
    rules = ("crop", "adm")
    described = [
        state.describe(*parts, ImageFolder(tmp_path, size=3, resize=rule))["data"] for rule in rules
    ]
    assert [data["resize"] for data in described] == list(rules)

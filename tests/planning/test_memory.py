"""Memory of a process: the parts of the sum, and the sum against what a run takes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ctm_fast import models
from ctm_fast.losses import CTM, CTMGAN, DSM, GAN, LPIPS, PseudoHuber
from ctm_fast.models.feature_nets import Timm
from ctm_fast.planning.calls import calls_of
from ctm_fast.planning.flops import parameters
from ctm_fast.planning.memory import Memory, Networks, memory_of
from ctm_fast.trainer import TrainConfig
from tests.trainer import processes

STUDENT, TEACHER = models.PRESETS["ctm-digits"], models.PRESETS["digits"]
SIZE = parameters(STUDENT)


def memory(objective=None, *, dtype=torch.float32, **options) -> Memory:
    objective = objective or CTM(num_scales=4, distance=PseudoHuber())
    where = {k: options.pop(k) for k in ("processes", "microbatch") if k in options}
    config = TrainConfig(**{"batch_size": 64, **options})
    networks = Networks(STUDENT, TEACHER if "teacher" in objective.needs else None, dtype)
    return memory_of(objective, calls_of(objective), networks, config, **where)


def test_parts() -> None:
    found = memory(ema=(0.9, 0.99))
    assert (found.weights, found.moments) == (4 * SIZE, 8 * SIZE)
    assert found.gradients == 8 * SIZE, "two terms are balanced"
    assert found.averages == 8 * SIZE
    assert found.target == 4 * SIZE
    assert found.teacher == 4 * parameters(TEACHER)
    assert found.total == sum(vars(found).values())
    assert memory(one_pass=True).gradients == 4 * SIZE
    assert memory(dtype=torch.bfloat16).teacher == 2 * parameters(TEACHER)
    plain = memory(DSM())
    assert (plain.teacher, plain.target, plain.gradients) == (0, 0, 4 * SIZE)
    assert memory(precision="bf16").weights == 6 * SIZE


def test_what_a_microbatch_changes() -> None:
    whole = memory(batch_size=4096)
    assert memory(batch_size=4096, microbatch=1024).passing < whole.passing / 2
    quarter = memory(batch_size=4096, microbatch=1024).passing
    assert quarter - memory(batch_size=1024).passing == 4 * SIZE, "gradients are there already"
    assert memory(batch_size=4096, processes=4).passing < whole.passing / 2
    assert memory(batch_size=4096, microbatch=9000) == whole
    slots = CTM(num_scales=4, distance=PseudoHuber(), teacher_slots=64)
    few = memory(slots, batch_size=4096, microbatch=1)
    assert few.passing < memory(batch_size=4096, microbatch=1).passing


def test_lpips_keeps_features_of_all_targets() -> None:
    found = memory(CTM(num_scales=4, distance=LPIPS(dtype="float32")))
    assert found.targets == 6_121_472 * 4 * 64
    assert found.passing > 64 * 99_000_000


def test_a_discriminators_backbones() -> None:
    def of(distance, **options):
        backbones = (Timm(), Timm("tf_efficientnet_lite0"))
        gan = GAN(backbones=backbones)
        return memory(CTMGAN(num_scales=4, distance=distance, gan=gan), **options)

    plain, both = of(PseudoHuber()), of(LPIPS(dtype="float32"))
    without = memory(CTM(num_scales=4, distance=PseudoHuber()))
    assert plain.judge == 4 * 90_300_000 and without.judge == 0
    assert plain.passing - without.passing == pytest.approx(64 * 177e6, rel=0.01)
    assert both.passing == plain.passing, "what LPIPS kept has gone by then"
    together = of(LPIPS(dtype="float32"), one_pass=True).passing - plain.passing
    assert together == pytest.approx(64 * 99e6, rel=0.01)


MEASURE = """
import re, sys, torch
from ctm_fast import models
from ctm_fast.data import ArrayDataset
from ctm_fast.denoiser import Denoiser
from ctm_fast.losses import CTM, DSM, PseudoHuber
from ctm_fast.planning import Plan
from ctm_fast.timesteps import TrajectoryLevels
from ctm_fast.trainer import TrainConfig, Trainer
from benchmarks.memory import RESET, STATUS, settle

network, batch, jumps = sys.argv[1], int(sys.argv[2]), sys.argv[1].startswith("ctm")
config, steps = models.PRESETS[network], TrajectoryLevels(max_steps=1)
ctm = CTM(num_scales=18, levels=steps, distance=PseudoHuber())
pixels = torch.randint(0, 256, (16, config.img_channels, *[config.img_resolution] * 2))
labels = torch.arange(16) % 10 if config.label_dim else None
data = ArrayDataset(pixels.to(torch.uint8), labels)

def bytes_of(name):
    return int(re.search(rf"^{name}:\\s+(\\d+) kB", STATUS.read_text(), re.M)[1]) * 1024

def trainer(size):
    teacher = Denoiser(models.build(network, destination=False)) if jumps else None
    student = models.student_from(teacher) if jumps else Denoiser(models.build(network))
    return Trainer(
        ctm if jumps else DSM(), student, teacher=teacher, data=data, device="cpu",
        batch_size=size, steps=2, progress_bar=False,
    )

if config.img_resolution < 32:
    trainer(batch).fit()  # what libraries keep for themselves is not asked for
settle()
before = bytes_of("VmRSS")
RESET.write_text("5")
run = trainer(batch)
run.fit()
plan = Plan(run.objective, network, {}, run.config)
print(plan.memory().total / (bytes_of("VmHWM") - before))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
@pytest.mark.parametrize(
    ("network", "batch"),
    [
        ("digits", 256),
        pytest.param("ctm-digits", 1024, marks=pytest.mark.slow),
        pytest.param("ddpmpp-cifar10", 8, marks=pytest.mark.slow),
        pytest.param("ctm-ddpmpp-cifar10", 4, marks=pytest.mark.slow),
    ],
)
def test_it_is_what_a_run_takes(network: str, batch: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, network, str(batch)],
        cwd=processes.ROOT,
        env=processes.environment(MALLOC_TRIM_THRESHOLD_="0", MALLOC_MMAP_THRESHOLD_="65536"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(1, abs=0.25)

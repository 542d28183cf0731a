"""What two processes do in test_distributed.py: python -m tests.trainer.ddp_worker OUT.

Every process writes OUT/<check>-<rank>.txt: "ok", or what it raised.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ctm_fast.losses import SCM, SCT, Models
from ctm_fast.trainer.companion import SharedBuffers
from ctm_fast.trainer.distributed import start
from tests.trainer import tiny
from tests.trainer.adversary import Adversarial

RUN = dict(batch_size=8, steps=3, microbatch=3, log_every=1)


def same_as_one_process(out: Path, rank: int) -> None:
    """Weights and log of three steps; a student that differs between the processes at first."""
    student = tiny.denoiser(seed=rank).to(memory_format=torch.channels_last)
    student.net.unused = torch.nn.Linear(2, 2)
    run = tiny.trainer(student=student, out=out / "two", **RUN)
    run.fit()
    kept = {name: value.contiguous() for name, value in tiny.weights(run.ema).items()}
    save_file(kept, out / f"weights-{rank}.safetensors")


def in_one_pass(out: Path, rank: int) -> None:
    """Three steps whose terms are differentiated together, with a weight that no term uses."""
    student = tiny.denoiser(seed=rank).to(memory_format=torch.channels_last)
    student.net.unused = torch.nn.Linear(2, 2)
    run = tiny.trainer(student=student, batch_size=8, steps=3, one_pass=True)
    run.fit()
    kept = {name: value.contiguous() for name, value in tiny.weights(run.ema).items()}
    save_file(kept, out / f"one-pass-{rank}.safetensors")


def through_a_derivative(out: Path, rank: int) -> None:
    """Three steps of a loss that differentiates the student in forward mode."""
    student = tiny.denoiser(seed=rank).to(memory_format=torch.channels_last)
    run = tiny.trainer(tiny.FLOW_MAP, student=student, **RUN)
    run.fit()
    kept = {name: value.contiguous() for name, value in tiny.weights(run.ema).items()}
    save_file(kept, out / f"derivative-{rank}.safetensors")


def with_companion(out: Path, rank: int) -> None:
    """Three steps with a learned weight that differs between the processes at first."""

    class Own(SCM):
        def companion(self, models: Models) -> torch.nn.Module:
            made = super().companion(models)
            torch.nn.init.constant_(made.bias, rank / 4)
            return made

    student = tiny.denoiser(seed=rank, kind="consistency", destination=False)
    run = tiny.trainer(Own(warmup=0.5), student=student, **RUN)
    run.fit()
    kept = {**tiny.weights(run.student), **tiny.weights(run.models.companion)}
    save_file(kept, out / f"companion-{rank}.safetensors")


def with_discriminator(out: Path, rank: int) -> None:
    """Four steps of each kind of heads, the last one the discriminator's; one run is resumed."""
    for name, norm, options in (
        ("plain", False, dict(microbatch=3)),
        ("one-pass", False, dict(microbatch=None, one_pass=True)),
        ("norm", True, dict(microbatch=2)),
        ("resumed", True, dict(microbatch=2)),
    ):

        class Own(Adversarial):
            def companion(self, models: Models) -> torch.nn.Module:
                made = super().companion(models)
                torch.nn.init.constant_(made.layers[-1].weight, 0.1 + rank)
                return made

        objective, folder = Own(num_scales=4, norm=norm), out / f"gan-{name}"
        for steps in (3, 4) if name == "resumed" else (4,):
            student = tiny.denoiser(seed=rank).to(memory_format=torch.channels_last)
            run = tiny.trainer(objective, student=student, out=folder, **{**RUN, **options})
            run.fit(steps)
        kept = {f"ema/{k}": v.contiguous() for k, v in tiny.weights(run.ema).items()}
        heads = run.models.companion
        kept |= {f"heads/{k}": v.contiguous() for k, v in tiny.weights(heads).items()}
        kept |= {f"gradient/{k}": p.grad.contiguous() for k, p in heads.named_parameters()}
        assert all(p.grad is None for p in run.student.parameters())
        save_file(kept, out / f"gan-{name}-{rank}.safetensors")


def shared_buffers(out: Path, rank: int) -> None:
    """Running statistics of two passes through batch norm beside a buffer that nothing writes."""
    module = torch.nn.Module()
    module.norm = torch.nn.BatchNorm1d(1)
    module.register_buffer("frozen", torch.tensor(float(rank)))
    shared = SharedBuffers(start(), module)
    for _ in range(2):
        module.norm(torch.tensor([[rank + 1.0], [rank + 3.0]]))
        shared.average()
    save_file(tiny.weights(module), out / f"buffers-{rank}.safetensors")


def resumed(out: Path, rank: int) -> None:
    """Continue the run of `same_as_one_process` by one step."""
    student = tiny.denoiser()
    student.net.unused = torch.nn.Linear(2, 2)
    run = tiny.trainer(student=student, out=out / "two", **RUN)
    assert run.step == 3
    run.fit(4)


def different_configuration(out: Path, rank: int) -> None:
    """One process has another learning rate."""
    tiny.trainer(lr=1e-2 * (rank + 1))


def bad_loss(out: Path, rank: int) -> None:
    """A loss that becomes NaN on one process only."""

    class Bad(tiny.DSM):
        def loss(self, term: str, batch: object, models: object, progress: float = 0.0) -> object:
            factor = torch.ones(len(batch))
            if rank == 1 and progress >= 0.5:
                factor[0] = float("nan")
            return factor * super().loss(term, batch, models, progress)

    tiny.trainer(Bad(), out=out / "bad").fit()


def disk_full(out: Path, rank: int) -> None:
    """The first process cannot write."""
    (out / "full").touch()
    tiny.trainer(out=out / "full")


def failing_callback(out: Path, rank: int) -> None:
    """A callback, which only the first process calls, raises."""

    def fail(trainer: object, step: int) -> None:
        raise KeyError("preview")

    tiny.trainer(steps=2, preview_every=1, callbacks=[fail]).fit()


def diagnosed(out: Path, rank: int) -> None:
    """Two steps whose log has a number of the objective's own."""
    student = tiny.denoiser(kind="consistency", destination=False)
    tiny.trainer(SCT(), student=student, out=out / "ess", **{**RUN, "steps": 2}).fit()


def alarmed(out: Path, rank: int) -> None:
    """An alarm, which only the first process looks for, ends the run."""

    class Diverging(tiny.DSM):
        def loss(self, term: str, batch: Any, models: Models, progress: float = 0.0) -> Any:
            factor = 100.0 if batch.draw["step"] else 1.0
            return factor * super().loss(term, batch, models, progress)

    tiny.trainer(Diverging(), alarms="stop", **{**RUN, "steps": 9, "lr": 1e-6}).fit()


def stopped(out: Path, rank: int) -> None:
    """One process is asked to stop in the middle."""

    class Stopping(tiny.DSM):
        def prepare(self, batch: object, models: object, progress: float = 0.0) -> None:
            if rank == 1 and progress >= 0.5:
                os.kill(os.getpid(), signal.SIGTERM)

    tiny.trainer(Stopping(), out=out / "stopped", steps=100).fit()


CHECKS: tuple[Callable[[Path, int], None], ...] = (
    same_as_one_process,
    in_one_pass,
    through_a_derivative,
    with_companion,
    with_discriminator,
    shared_buffers,
    resumed,
    different_configuration,
    bad_loss,
    disk_full,
    failing_callback,
    diagnosed,
    alarmed,
    stopped,
)


def main(out: Path) -> None:
    """All checks, one after the other, on the same processes."""
    rank = int(os.environ["RANK"])
    for check in CHECKS:
        try:
            check(out, rank)
            text = "ok"
        except (Exception, SystemExit) as error:
            text = f"{type(error).__name__}: {error}"
        (out / f"{check.__name__}-{rank}.txt").write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

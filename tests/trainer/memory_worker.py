"""What two processes do in test_accumulation.py: python -m tests.trainer.memory_worker OUT."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ctm_fast.losses import CTM
from ctm_fast.trainer import OutOfMemory
from tests.trainer import tiny


class Uneven(CTM):
    """CTM on devices of which the second holds two images and the first four."""

    late = False  # memory runs out after the steps that are tried

    def loss(self, term: str, batch: Any, models: Any, progress: float = 0.0) -> Tensor:
        loss = super().loss(term, batch, models, progress)
        room = 2 if os.environ["RANK"] == "1" else 4
        if len(batch) > room and (progress > 0.5 or not self.late):
            raise torch.OutOfMemoryError("no room")
        return loss


def main(out: Path) -> None:
    """A run that halves its microbatch, one that begins with it, and one that cannot agree."""
    rank = int(os.environ["RANK"])
    for name, objective, microbatch in [
        ("short", Uneven(num_scales=4), None),
        ("chosen", CTM(num_scales=4), 2),
    ]:
        options = dict(microbatch=microbatch, dropout=0.5, batch_size=16, steps=3)
        run = tiny.trainer(objective, **options)
        run.fit()
        assert run._gradients.microbatch == 2
        save_file(tiny.weights(run.student), out / f"{name}-{rank}.safetensors")
    Uneven.late = True
    try:
        tiny.trainer(Uneven(num_scales=4), microbatch=3, batch_size=16, steps=4).fit()
    except RuntimeError as error:
        # The other process misses its partner; a launcher would have ended it.
        assert isinstance(error, OutOfMemory) or rank == 0
        (out / f"late-{rank}.txt").write_text(str(error))
        os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

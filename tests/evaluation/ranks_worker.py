"""What two processes do in test_ranks.py: python -m tests.evaluation.ranks_worker OUT.

Every process writes OUT/<rank>.json and OUT/<rank>.safetensors.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ctm_fast import Sampler
from ctm_fast.evaluation import Extractor, SampledImages, StoredImages, evaluate_full, reference_of
from ctm_fast.evaluation.measuring import measured
from ctm_fast.trainer.distributed import start
from tests.evaluation import small
from tests.trainer import tiny

TOTAL, BATCH = 46, 8  # six batches, the last of six images


class Failing(small.Features):
    """Fails in the second process only, which has the brighter images."""

    def forward(self, images: Tensor) -> Any:
        if torch.distributed.is_initialized() and torch.distributed.get_rank() == 1:
            raise ValueError("no such images")
        return super().forward(images)


def results() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Numbers and tensors, whatever the number of processes."""
    extractor = small.extractor()
    stored = StoredImages(small.noise(TOTAL))
    found = measured(stored, extractor, BATCH, features=True, logits=True)
    few = measured(StoredImages(small.noise(5)), extractor, BATCH, features=True)
    reference = reference_of(stored, extractor, features=True, batch_size=BATCH)
    sampler = Sampler(tiny.denoiser(), batch_size=BATCH)
    runs = [SampledImages(sampler, TOTAL, first) for first in (0, TOTAL)]
    numbers = evaluate_full(
        runs, extractor, reference, ("fid", "kid", "is", "pr"), batch_size=BATCH
    )
    assert found.features is not None and found.logits is not None and few.features is not None
    tensors = {
        "mean": found.moments.mean,
        "covariance": found.moments.covariance,
        "features": found.features,
        "logits": found.logits,
        "few": few.features,
        "few_mean": few.moments.mean,
    }
    return {n.name: n.to_json() for n in numbers}, tensors


def main(out: Path) -> None:
    """Write what this process found, and what happens where one process fails."""
    world = start()
    numbers, tensors = results()
    try:
        measured(StoredImages(small.noise(TOTAL)), Extractor(Failing(), "failing"), BATCH)
        failure = "none"
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    save_file(tensors, out / f"{world.rank}.safetensors")
    (out / f"{world.rank}.json").write_text(json.dumps({"numbers": numbers, "failure": failure}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

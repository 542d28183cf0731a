"""A tiny training run as a program: python -m tests.trainer.worker OUT STEPS [PAUSE [gan]].

PAUSE is the time in seconds that every step takes at least; `gan` adds the adversarial term. Prints
a line when training begins.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.trainer import tiny
from tests.trainer.adversary import adversarial


def run(out: str | Path, steps: int, pause: float = 0.0, gan: bool = False) -> None:
    """Train in `out`, with dropout, saving every second step."""
    trainer = tiny.trainer(
        adversarial(start=2) if gan else None,
        out=out,
        steps=steps,
        dropout=0.5,
        checkpoint_every=2,
        log_every=3,
        preview_every=1,
        callbacks=[lambda trainer, step: time.sleep(pause)],
    )
    print(f"begins at {trainer.step}", flush=True)
    trainer.fit()


if __name__ == "__main__":
    given = sys.argv[3:]
    run(sys.argv[1], int(sys.argv[2]), float(given[0]) if given else 0.0, "gan" in given)

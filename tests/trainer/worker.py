"""A tiny training run as a program: python -m tests.trainer.worker OUT STEPS [PAUSE].

PAUSE is the time in seconds that every step takes at least. Prints a line when training begins.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.trainer import tiny


def run(out: str | Path, steps: int, pause: float = 0.0) -> None:
    """Train in `out`, with dropout, saving every second step."""
    trainer = tiny.trainer(
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
    run(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 0.0)

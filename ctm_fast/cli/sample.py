"""`ctm-fast sample`: images from a model file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..checkpoints import load
from ..denoiser import Denoiser
from ..evaluation import grid_png
from ..evaluation.protocol import quantized
from ..sampler import Sampler
from ..wrappers import Group, Guided, Routed
from .overrides import parsed_overrides


@dataclass(frozen=True)
class Sample:
    """Draw images from a model file, as a picture (.png) or as an array (.npz)."""

    model: Path  # file or folder of any format that `load` reads
    out: Path = Path("samples.png")  # .png: one grid; .npz: arr_0 (N, H, W, C) uint8, arr_1 labels
    num: int = 64  # images
    labels: tuple[int, ...] = ()  # class of every image, or one for all; none: all classes in turn
    steps: int | None = None  # 1 for models that jump, 18 for diffusion models if not given
    method: str | None = None  # exact, gamma, cm_multistep, onestep, phased, heun, euler, churn
    gamma: float = 0.0  # share of fresh noise per step in [0, 1], method gamma
    sigmas: tuple[float, ...] = ()  # own noise levels, decreasing, instead of --steps
    edges: tuple[float, ...] = ()  # levels between the phases, method phased
    eta: float | None = None  # method phased: phases end at eta times their edge, in (0, 1]
    bad: Path | None = None  # worse model of the same kind that guides, see --guidance
    guidance: float | None = None  # bad + guidance (good - bad); without --bad, of no label
    corrector_steps: int = 0  # Langevin corrections before every step but the first
    snr: float | None = None  # size of a correction, in (0, 1); 0.16 if not given
    below: Path | None = None  # model that answers below --boundary, as TCM's first stage
    boundary: float = 1.0  # noise level from which on --model answers, where there is --below
    seed: int = 0  # of the run; image k depends on (seed, k) only
    batch_size: int | None = 256  # images per network call
    device: str = "cuda" if torch.cuda.is_available() else "cpu"  # where to compute
    format: str = "auto"  # of the model, if its content does not tell
    overrides: tuple[str, ...] = ()  # KEY=VALUE about the model, as for ctm-fast convert

    def run(self) -> int:
        """Write the file; returns 0."""
        if self.out.suffix not in (".png", ".npz"):
            raise ValueError(f"--out must end in .png or .npz, got {self.out.name!r}")
        overrides = parsed_overrides(self.overrides)
        model = load(self.model, self.format, self.device, **overrides)
        for note in model.notes:
            print(f"assumed: {note}")
        sampler = Sampler(
            self._combined(model),
            steps=self.steps,
            method=self.method,
            gamma=self.gamma,
            sigmas=self.sigmas or None,
            edges=self.edges or None,
            eta=self.eta,
            corrector_steps=self.corrector_steps,
            snr=self.snr,
            batch_size=self.batch_size,
            progress=True,
        )
        labels = self._labels(sampler.model.label_dim)
        images = sampler(self.num, labels=labels, seed=self.seed).cpu()
        self.out.parent.mkdir(parents=True, exist_ok=True)
        if self.out.suffix == ".png":
            grid_png(images, self.out, ncol=max(1, round(self.num**0.5)))
        else:
            arrays = [quantized(images).permute(0, 2, 3, 1).numpy()]
            if labels is not None:
                arrays.append(labels.numpy())
            np.savez(self.out, *arrays)
        print(f"wrote {self.out}: {self.num} images, {sampler.nfe} network calls each")
        return 0

    def _combined(self, model: Denoiser) -> Denoiser | Group:
        """The model, guided by another and replaced by another at low noise where asked for."""
        found: Denoiser | Group = model
        if self.bad is not None and self.guidance is None:
            raise ValueError("--bad needs --guidance, the weight of the difference, above 1")
        if self.guidance is not None:
            bad = None if self.bad is None else load(self.bad, "auto", self.device)
            found = Guided(found, bad, weight=self.guidance)
        if self.below is not None:
            found = Routed([load(self.below, "auto", self.device), found], [self.boundary])
        return found

    def _labels(self, classes: int) -> torch.Tensor | None:
        if not self.labels:
            return torch.arange(self.num) % classes if classes else None
        if len(self.labels) not in (1, self.num):
            raise ValueError(f"--labels has {len(self.labels)} entries; need 1 or {self.num}")
        return torch.tensor(self.labels).expand(self.num)

"""`CTMModel`: a network of `ctm_fast.models` as a diffusers model, for the `unet` of a pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import models
from ..denoiser import KINDS, Denoiser
from ..precond import Preconditioning
from ..sigmas import check_sigma_range
from ._diffusers_extra import BaseOutput, ConfigMixin, ModelMixin, register_to_config
from .diffusers_levels import time_to_sigma


@dataclass
class CTMModelOutput(BaseOutput):
    """What `CTMModel` gives."""

    sample: Tensor  # raw output F of the network, shape and dtype of its input


class CTMModel(ModelMixin, ConfigMixin):
    """Network that is told one or two times t = 250 ln(sigma), with what it needs to be sampled.

    `save_pretrained` writes safetensors and a config.json that says what the model is. It computes
    in the dtype of its weights.

    Args:
        network: JSON of the network's configuration, see `models.config_to_json`.
        preconditioning: JSON of a `Preconditioning`.
        kind: "consistency" (one time) or "trajectory" (two).
        sigma_min: smallest noise level that the network knows, > 0.
        sigma_max: largest one.

    Raises:
        ValueError: for another kind, or JSON that describes no network or preconditioning.
    """

    @register_to_config
    def __init__(
        self,
        network: dict[str, Any],
        preconditioning: dict[str, Any],
        kind: str = "trajectory",
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
    ) -> None:
        super().__init__()
        check_sigma_range(sigma_min, sigma_max)
        self.precond = Preconditioning.from_json(preconditioning)
        self.net = models.net_from_json(network)
        if kind not in KINDS[1:]:
            raise ValueError(
                f"kind is {kind!r}; a pipeline that jumps needs one of {KINDS[1:]}. Sample a "
                "denoiser with ctm_fast.Sampler, or distil it first"
            )
        if kind == "trajectory" and not self.net.has_destination:
            raise ValueError("kind='trajectory' needs a network with a destination embedding")

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Model of a folder; arguments as in diffusers, but every weight must be there.

        Raises:
            ValueError: for weights that are missing or left over.
        """
        asked = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        wrong = {what: sorted(info.get(what) or ()) for what in ("missing_keys", "unexpected_keys")}
        if any(wrong.values()):
            shown = ", ".join(f"{what} {names[:4]}" for what, names in wrong.items() if names)
            raise ValueError(f"the weights do not fit the network of config.json: {shown}")
        return (model, info) if asked else model

    @classmethod
    def from_denoiser(cls, denoiser: Denoiser) -> CTMModel:
        """Model around a `Denoiser`'s own network; the weights are shared, not copied.

        Raises:
            ValueError: for a model that only denoises, or a network that is not one of
                `ctm_fast.models`.
        """
        config = getattr(denoiser.net, "config", None)
        if not isinstance(denoiser.net, models.UNet) or config is None:
            raise ValueError(
                f"a {type(denoiser.net).__name__} cannot be rebuilt from a config; only networks "
                "of ctm_fast.models can"
            )
        with torch.device("meta"):
            model = cls(
                models.config_to_json(config),
                denoiser.precond.to_json(),
                denoiser.kind,
                denoiser.sigma_min,
                denoiser.sigma_max,
            )
        model.net = denoiser.net
        return model

    def to_denoiser(self) -> Denoiser:
        """`Denoiser` around this model's own network, for `ctm_fast.Sampler` and `freeze`."""
        config = self.config
        low, high = config.sigma_min, config.sigma_max
        return Denoiser(self.net, self.precond, kind=config.kind, sigma_min=low, sigma_max=high)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        s_timestep: Tensor | float | None = None,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> CTMModelOutput | tuple[Tensor]:
        """Raw output F(sample, t, s), shape and dtype of `sample`.

        Args:
            sample: (batch, C, H, W) images from `CTMScheduler.scale_model_input`.
            timestep: t = 250 ln(sigma) of the images, one for all or (batch,).
            s_timestep: s, time that is jumped to; trajectory models only, and they need it.
            class_labels: (batch,) int64 for a class-conditional network, or None.
            return_dict: False gives a tuple with one entry.

        Raises:
            ValueError: for a missing or an extra s_timestep, or labels that do not fit.
        """
        if (s_timestep is None) != (self.config.kind == "consistency"):
            raise ValueError(
                f"s_timestep is {s_timestep}; a trajectory network needs the time it jumps to "
                f"(CTMPipeline passes it), a consistency network takes none. This one is of kind "
                f"{self.config.kind!r}"
            )
        weights = next(self.net.parameters()).dtype
        told, told_to = (self._c_noise(time, sample) for time in (timestep, s_timestep))
        if told is not None and told_to is not None:
            told_to = self.precond.c_noise_to(told, told_to)
        F = self.net(sample.to(weights), told, told_to, labels=class_labels).to(sample.dtype)
        return CTMModelOutput(F) if return_dict else (F,)

    def _c_noise(self, time: Tensor | float | None, sample: Tensor) -> Tensor | None:
        if time is None:
            return None
        exact = time if isinstance(time, Tensor) else torch.tensor(time, dtype=torch.float64)
        told = self.precond.c_noise(time_to_sigma(exact))
        return told.to(sample.device, torch.float32).expand(len(sample))

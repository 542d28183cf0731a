"""`CTMPipeline`: images from a `CTMModel` and a `CTMScheduler`, as a diffusers pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..precond import Preconditioning
from ..sampler.arguments import checked_labels, checked_noise, number_of_images
from ..sampler.engine import evaluating
from ._diffusers_extra import DiffusionPipeline, ImagePipelineOutput, randn_tensor
from .diffusers import CTMScheduler
from .diffusers_model import CTMModel

OUTPUT_TYPES = ("pil", "np", "pt")
Generators = torch.Generator | list[torch.Generator] | None


class CTMPipeline(DiffusionPipeline):
    """Class-conditional or unconditional images, any number of channels.

    With gamma=0 the images are those of `Sampler(denoiser, steps)` from the same noise. The state
    between network calls is float32 whatever the network's dtype; the network runs in eval mode.

    Args:
        unet: network.
        scheduler: with the network's kind, preconditioning and sigma range. Without a kind, or of
            another class, it is replaced by a `CTMScheduler` with its configuration.
    """

    model_cpu_offload_seq = "unet"
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012, diffusers' own form

    def __init__(self, unet: CTMModel, scheduler: CTMScheduler) -> None:
        super().__init__()
        if not isinstance(scheduler, CTMScheduler) or scheduler.config.kind is None:
            scheduler = CTMScheduler.from_config(scheduler.config, kind=unet.config.kind)
        self.register_modules(unet=unet, scheduler=scheduler)

    @classmethod
    def from_denoiser(cls, denoiser: Denoiser, **options: Any) -> CTMPipeline:
        """Pipeline around a `Denoiser` that jumps, with its scalings and sigma range.

        Args:
            denoiser: of kind "trajectory" or "consistency"; its weights are shared.
            options: arguments of `CTMScheduler` that should differ, for example gamma.

        Raises:
            ValueError: as `CTMModel.from_denoiser` and `CTMScheduler`.
        """
        unet = CTMModel.from_denoiser(denoiser)
        own: dict[str, Any] = dict(
            kind=denoiser.kind,
            preconditioning=denoiser.precond.to_json(),
            sigma_min=denoiser.sigma_min,
            sigma_max=denoiser.sigma_max,
            sigma_data=denoiser.sigma_data,
            clip_denoised=False,
            timestep_spacing="linspace",
        )
        return cls(unet, CTMScheduler(**{**own, **options}))

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int | None = None,
        class_labels: Tensor | Iterable[int] | int | None = None,
        num_inference_steps: int | None = None,
        timesteps: Iterable[int] | None = None,
        generator: Generators = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback: Callable[[int, Tensor, Tensor], None] | None = None,
        callback_steps: int = 1,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Iterable[str] = ("latents",),
        *,
        gamma: float | None = None,
        sigmas: Iterable[float] | Tensor | None = None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Images: a list of PIL images, an array (batch, H, W, C) or a tensor (batch, C, H, W).

        Arrays and tensors are in [0, 1].

        Args:
            batch_size: number of images; by default as many as labels, generators or latents, or 1.
            class_labels: one integer, or one per image; by default drawn with the generator.
            num_inference_steps: network calls, >= 1; by default 1.
            timesteps: descending grid indices instead, as in `CTMScheduler.set_timesteps`.
            generator: draws latents, then missing labels, then noise. A list has one per image,
                and then an image does not depend on the others.
            latents: (batch, C, H, W) unit Gaussian noise; it is multiplied by the first level.
            output_type: "pil", "np" or "pt".
            return_dict: False gives a tuple with one entry.
            callback: called as callback(step, timestep, latents) after steps 0, callback_steps, ...
            callback_steps: >= 1.
            callback_on_step_end: called as function(pipe, step, timestep, {"latents": latents})
                after every step; the latents it returns replace the current ones.
            callback_on_step_end_tensor_inputs: names in that dictionary; "latents" is all there is.
            gamma: of this run, in [0, 1], instead of the scheduler's.
            sigmas: own decreasing noise levels instead of steps or timesteps.

        Raises:
            ValueError: for arguments outside their range or that disagree, and for a scheduler
                that does not suit the network.
        """
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type is {output_type!r}; choose from {OUTPUT_TYPES}")
        if not isinstance(callback_steps, int) or callback_steps < 1:
            raise ValueError(f"callback_steps is {callback_steps!r}; it must be an integer >= 1")
        unknown = sorted(set(callback_on_step_end_tensor_inputs) - {"latents"})
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs has {unknown}; only latents exist"
            )
        scheduler = self._fitting_scheduler()
        net, device = self.unet.net, self._execution_device
        channels, side = net.img_channels, net.img_resolution
        if output_type == "pil" and channels not in (1, 3, 4):
            raise ValueError(f"{channels} channels are no picture; use output_type='np' or 'pt'")
        num = _batch_size(batch_size, class_labels, generator, latents)
        if timesteps is None and sigmas is None and num_inference_steps is None:
            num_inference_steps = 1
        scheduler.set_timesteps(num_inference_steps, device, timesteps, sigmas, gamma)

        shape = (num, channels, side, side)
        if latents is None:
            latents = randn_tensor(shape, generator, device, torch.float32)
        else:
            latents = checked_noise(latents, num, shape[1:]).to(device, torch.float32)
        if class_labels is None and net.label_dim:
            class_labels = _drawn_labels(num, net.label_dim, generator)
        classes = checked_labels(class_labels, num, net.label_dim)
        classes = None if classes is None else classes.to(device)
        # Not init_noise_sigma: own levels may begin below sigma_max.
        x = latents * float(scheduler.sigmas[0])

        two_times = scheduler.kind == "trajectory"
        pairs = list(zip(scheduler.timesteps, scheduler.s_timesteps, strict=True))
        with self.progress_bar(total=len(pairs)) as bar, evaluating(self.unet):
            for i, (t, s) in enumerate(pairs):
                scaled = scheduler.scale_model_input(x, t)
                F = self.unet(scaled, t, s if two_times else None, classes, return_dict=False)[0]
                x = scheduler.step(F, t, x, s, generator, return_dict=False)[0]
                if callback_on_step_end is not None:
                    given = {"latents": x}
                    x = (callback_on_step_end(self, i, t, given) or given).get("latents", x)
                if callback is not None and i % callback_steps == 0:
                    callback(i, t, x)
                bar.update()

        images: Any = (x / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _fitting_scheduler(self) -> CTMScheduler:
        scheduler, model = self.scheduler, self.unet.config
        if not isinstance(scheduler, CTMScheduler):
            raise ValueError(
                f"the scheduler is a {type(scheduler).__name__}; use "
                "CTMScheduler.from_config(pipe.scheduler.config, kind=pipe.unet.config.kind)"
            )
        own = Preconditioning.from_json(model.preconditioning)
        used = scheduler.preconditioning(model.kind)
        pairs = {
            "kind": (scheduler.config.kind, model.kind),
            "sigma_min": (scheduler.config.sigma_min, model.sigma_min),
            "sigma_max": (scheduler.config.sigma_max, model.sigma_max),
            "preconditioning": ((used.inner, used.outer), (own.inner, own.outer)),
        }
        for name, (its, ours) in pairs.items():
            if its != ours:
                raise ValueError(
                    f"the scheduler's {name} is {its}, but the network needs {ours}; "
                    "CTMPipeline.from_denoiser makes a scheduler that fits"
                )
        return scheduler


def _batch_size(num: int | None, labels: Any, generator: Generators, latents: Any) -> int:
    many = generator if isinstance(generator, list) else None
    if many is not None and num is None:
        num = len(many)
    if num is None and latents is None and not hasattr(labels, "__len__"):
        return 1
    num = number_of_images(num, labels, 0, latents)
    if many is not None and len(many) != num:
        raise ValueError(f"generator has {len(many)} entries; need one per image, {num}")
    return num


def _drawn_labels(num: int, classes: int, generator: Generators) -> Tensor:
    if isinstance(generator, list):
        return torch.cat([_drawn_labels(1, classes, one) for one in generator])
    device = torch.device("cpu") if generator is None else generator.device
    return torch.randint(classes, (num,), generator=generator, device=device).cpu()

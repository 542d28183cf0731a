"""What a foreign network says about itself, and what can only be asked."""

from __future__ import annotations

from typing import Any

from ..sigmas import SIGMA_MAX, SIGMA_MIN
from .edm import WRAPPERS

EDM_ATTRIBUTES = ("sigma_min", "sigma_max", "round_sigma", "img_resolution", "img_channels")
EDM_KINDS = {name: wrapper.kind for name, wrapper in WRAPPERS.items()}
# Networks without scalings of their own: the same class serves models of every kind and time.
RAW = {
    "UNet2DModel": (
        "a diffusers UNet2DModel: time='diffusers' with kind='denoiser' and the scheduler's "
        "prediction= in a DDPM pipeline, time='adm' with kind='consistency' in a consistency one"
    ),
    "UNetModel": (
        "a guided-diffusion UNetModel: time='adm' with kind='denoiser' (EDM), 'consistency' or "
        "'trajectory' (CTM), time='diffusers' with kind='denoiser' (DDPM)"
    ),
}


def host_class(net: Any) -> str:
    """Name of a network's class, of the original's where `ctm_fast.freeze` made it from one."""
    name = getattr(net, "host_class", None)
    return name if isinstance(name, str) else type(net).__name__


def facts(net: Any) -> dict[str, Any]:
    """Options of `wrap` that are certain from the class and the attributes of a network."""
    name = host_class(net)
    found: dict[str, Any] = {}
    if _number(getattr(net, "sigma_data", None)):
        found["sigma_data"] = float(net.sigma_data)
    if _counts(net, "img_channels", "img_resolution"):
        side = int(net.img_resolution)
        found["shape"] = (int(net.img_channels), side, side)
    if _counts(net, "label_dim"):
        found["label_dim"] = int(net.label_dim)
    if name == "UNet2DModel" and hasattr(net, "config"):
        size, config = net.config.sample_size, net.config
        sides = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
        if all(isinstance(side, int) for side in sides):
            found["shape"] = (config.in_channels, *sides)
        found["label_dim"] = config.num_class_embeds or 0
    if name == "UNetModel" and _counts(net, "in_channels", "image_size"):
        found["shape"] = (net.in_channels, net.image_size, net.image_size)
        found["label_dim"] = getattr(net, "num_classes", None) or 0
    if name == "Precond" and hasattr(net, "unet") and "shape" in found:  # EDM2, and ECT on it
        found["time"], found["labels"] = "edm", "onehot"
    if all(hasattr(net, attribute) for attribute in EDM_ATTRIBUTES):
        # EDM's classes say [0, inf]; its sampler takes 0.002 and 80 then.
        found["sigma_min"] = max(SIGMA_MIN, float(net.sigma_min))
        found["sigma_max"] = min(SIGMA_MAX, float(net.sigma_max))
        found["time"], found["labels"] = "edm", "onehot"
        if name in EDM_KINDS:
            found["kind"] = EDM_KINDS[name]
    return found


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _counts(net: Any, *names: str) -> bool:
    values = [getattr(net, name, None) for name in names]
    return all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values)

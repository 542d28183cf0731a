"""Checks of models and images whose likelihood is asked for, and their order in batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..inference.tables import Tabulated
from ..sampler.arguments import checked_labels, image_shape
from ..sampler.engine import evaluating
from ..wrappers import ClassifierGuided, wrap

HALVES = (torch.float16, torch.bfloat16)
STATES = (torch.float32, torch.float64)


def checked_model(model: Any) -> Any:
    """The model as `wrap` makes it: something called as model(x, sigma, labels).

    Raises:
        ValueError: as `wrap`; for a consistency model, a frozen one, and one in half precision.
    """
    model = wrap(model)
    if model.kind not in ("denoiser", "trajectory"):
        raise ValueError(
            f"a model of kind {model.kind!r} has no score, so no likelihood: it answers with the "
            "end of the trajectory, not with E[image | x]; allowed are 'denoiser' and 'trajectory'"
        )
    for part in model.modules() if isinstance(model, nn.Module) else [model]:
        if isinstance(part, Tabulated):
            raise ValueError(
                "a frozen model rounds more than a likelihood allows; give the model it was made of"
            )
        dtypes = {getattr(part, "dtype", None)}
        if isinstance(part, nn.Module):
            dtypes |= {p.dtype for p in part.parameters(recurse=False)}
        if half := dtypes & {*HALVES}:
            raise ValueError(
                f"the model computes in {half.pop()}, too coarse for a likelihood; use its float32 "
                "weights and dtype=None"
            )
    return model


def check_differentiable(model: Any) -> None:
    """Raise ValueError for a model with a classifier's part, through which no gradient flows."""
    for part in model.modules() if isinstance(model, nn.Module) else []:
        if isinstance(part, ClassifierGuided) and part.weight != 0:
            raise ValueError(
                "no gradient flows through a classifier's part, so the likelihood by the ODE would "
                "leave out its trace; give the model without its classifier, or use elbo"
            )


def sigma_range(model: Any) -> tuple[float, float]:
    """Smallest and largest level that the ODE runs between."""
    low, high = getattr(model, "ode_range", (model.sigma_min, model.sigma_max))
    return float(low), float(high)


def sigma_data_of(model: Any) -> float:
    """Deviation of the data that the state is scaled for; any value gives the same likelihood."""
    own = getattr(model, "sigma_data", None)
    return float(own) if isinstance(own, int | float) and own > 0 else 0.5


def checked_images(model: Any, images: Tensor, dtype: torch.dtype) -> Tensor:
    """The images in `dtype`, a tensor of their own.

    Raises:
        ValueError: for a dtype other than float32 and float64, images that are not finite floating
            point numbers, or another shape than the model's.
    """
    if dtype not in STATES:
        raise ValueError(f"dtype is {dtype}; the solve runs in torch.float32 or torch.float64")
    if not isinstance(images, Tensor) or not images.is_floating_point():
        what = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images are {what}; they must be a floating point tensor in [-1, 1]")
    if images.ndim < 2:
        raise ValueError(f"images have shape {tuple(images.shape)}; need (batch, C, H, W)")
    shape = _known_shape(model, images)
    if images.shape[1:] != shape:
        raise ValueError(f"images have shape {tuple(images.shape)}; need (batch, *{shape})")
    if not bool(images.isfinite().all()):
        raise ValueError("images have values that are not finite; allowed are those in [-1, 1]")
    # Also where the images are inference tensors, of which there is no gradient.
    with torch.inference_mode(False):
        return images.detach().to(dtype, copy=True)


def _known_shape(model: Any, images: Tensor) -> tuple[int, ...]:
    says = hasattr(model, "img_shape") or hasattr(model, "img_channels")
    return image_shape(model, images) if says else tuple(images.shape[1:])


def checked_class_labels(model: Any, labels: Any, num: int) -> Tensor | None:
    """Classes (num,) int64 or weights of classes (num, label_dim); None without conditioning.

    Raises:
        ValueError: for labels that do not fit, and for none where the model takes some.
    """
    classes = int(getattr(model, "label_dim", 0))
    if classes and labels is None:
        raise ValueError(
            f"the model is conditional: give one label in [0, {classes}) per image, or weights "
            f"({num}, {classes}) of the classes, zeros for no class"
        )
    weights = torch.as_tensor(labels) if labels is not None else None
    if classes and weights is not None and weights.is_floating_point() and weights.ndim == 2:
        if weights.shape != (num, classes):
            raise ValueError(f"labels have shape {tuple(weights.shape)}; need ({num}, {classes})")
        known: Tensor | None = weights
    else:
        known = checked_labels(labels, num, classes)
    with torch.inference_mode(False):
        return None if known is None else known.clone()


def check_batch_size(batch_size: int) -> None:
    """Raise ValueError unless this is a number of images."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}; it must be an integer, at least 1")


def batches(num: int, batch_size: int, progress: bool) -> Iterator[slice]:
    """Slices of at most `batch_size` of `num` images, with a bar of images done."""
    check_batch_size(batch_size)
    with tqdm(total=num, unit="image", disable=not progress) as bar:
        for start in range(0, num, batch_size):
            rows = slice(start, min(start + batch_size, num))
            yield rows
            bar.update(rows.stop - rows.start)


@contextmanager
def outside_inference(model: Any) -> Iterator[None]:
    """Model in eval mode, tensors with gradients even where the caller switched them off."""
    with evaluating(model), torch.inference_mode(False):
        yield

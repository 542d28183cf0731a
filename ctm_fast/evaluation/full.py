"""FID, KID, Inception score, precision and recall of many images; every number with its card."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from ctm_fast.data.dataset import ArrayDataset

from . import ranks
from .card import MetricCard, ModelFacts, Number
from .environment import environment
from .extractor import Extractor
from .feature_scores import require_torchmetrics
from .images import Images, StoredImages
from .measuring import Measured, measured
from .reference import Reference
from .scores import METRICS

# Distances are reported as the smallest of the seed ranges (EDM's practice), the rest as the mean.
SMALLEST = ("fid", "kid")


def reference_of(
    images: Images,
    extractor: Extractor,
    *,
    features: bool = False,
    batch_size: int = 64,
    progress: bool = False,
) -> Reference:
    """Statistics of real images, made by all processes together; the same on each.

    Args:
        images: usually `StoredImages(data.open(...))`.
        extractor: see `Extractor`.
        features: keep the features, which KID, precision and recall need.
        batch_size: images per call of the extractor.
        progress: show a bar.

    Raises:
        ValueError: for fewer than two images, or as `measured`.
    """
    found = measured(images, extractor, batch_size, features=features, progress=progress)
    card = {
        "extractor": extractor.described(),
        **{k: v for k, v in images.described().items() if v is not None},
        "environment": environment(),
    }
    return Reference(found.moments.mean, found.moments.covariance, found.features, None, card)


def with_features(
    reference: Reference, extractor: Extractor, batch_size: int = 64, progress: bool = False
) -> Reference:
    """The same reference with features, and with moments if it had none, made of its images.

    Raises:
        ValueError: if it has no images either.
    """
    if reference.features is not None and reference.mean is not None:
        return reference
    if reference.pixels is None:
        raise ValueError(
            f"{reference.card.get('file', 'the reference')} has "
            f"{'features' if reference.mean is None else 'mu and sigma'} only; FID needs mu and "
            "sigma; KID, precision and recall need features, which --reference-out stores when "
            "--metrics names kid or pr; images (arr_0) give both"
        )
    pixels = torch.from_numpy(reference.pixels).permute(0, 3, 1, 2)
    stored = StoredImages(ArrayDataset(pixels, name="arr_0"))
    made = reference_of(stored, extractor, features=True, batch_size=batch_size, progress=progress)
    card = {**reference.card, "features_of": f"its {len(stored)} stored images"}
    if reference.mean is not None:
        return dataclasses.replace(reference, features=made.features, card=card)
    card["mu_and_sigma_of"] = card["features_of"]
    return Reference(made.mean, made.covariance, made.features, reference.pixels, card)


def evaluate_full(
    runs: Sequence[Images],
    extractor: Extractor,
    reference: Reference | None = None,
    metrics: Sequence[str] = ("fid",),
    *,
    about: ModelFacts | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> list[Number]:
    """Numbers of images of one model with one sampler, made by all processes together.

    Args:
        runs: one `Images` per seed range; EDM's practice is three of 50,000.
        extractor: see `Extractor`.
        reference: what they are compared with; not needed for "is" alone.
        metrics: out of METRICS.
        about: facts about the model for the cards.
        batch_size: images per call of the sampler and of the extractor.
        seed: of KID's subsets and the Inception score's shuffle.
        progress: show bars on the first process.

    Returns:
        numbers: fid; kid and kid_std; is and is_std; precision and recall, as asked for. Distances
            are the smallest of the runs, the others their mean; `values` has all of them.

    Raises:
        ValueError: for an unknown metric, no runs, runs of different size, a reference that is
            missing or was made with another extractor, or fewer than two images.
        ImportError: for "kid" or "is" without torchmetrics.
    """
    reference = _prepared(runs, extractor, reference, metrics, batch_size, progress)
    chosen = [METRICS[name] for name in METRICS if name in metrics]
    features, logits = any(m.features for m in chosen), any(m.logits for m in chosen)
    columns: dict[str, list[float]] = {}
    words: dict[str, str] = {}
    compared: set[str] = set()
    for run in runs:
        found = measured(
            run, extractor, batch_size, features=features, logits=logits, progress=progress
        )
        for metric in chosen:
            for name, (value, said) in metric.scores(found, reference, seed).items():
                columns.setdefault(name, []).append(value)
                words[name] = said
                compared |= {name} if metric.compared else set()
    # All that the cards of one call share; the rest is filled in for each number.
    common = _card(runs, extractor, found, about or ModelFacts(), batch_size)
    return [
        _number(name, values, words[name], reference if name in compared else None, common)
        for name, values in columns.items()
    ]


def _prepared(
    runs: Sequence[Images],
    extractor: Extractor,
    reference: Reference | None,
    metrics: Sequence[str],
    batch_size: int,
    progress: bool,
) -> Reference | None:
    """The reference with all that the metrics need of it."""
    unknown = sorted(set(metrics) - set(METRICS))
    if unknown or not metrics:
        raise ValueError(f"metrics {list(metrics)}; choose from {list(METRICS)}")
    sizes = sorted({len(run) for run in runs})
    if len(sizes) != 1 or sizes[0] < 2:
        raise ValueError(f"runs of {sizes} images; need one size for all, at least 2")
    if any(METRICS[name].torchmetrics for name in metrics):
        require_torchmetrics()  # now, not when 50,000 images have been made
    compared = sorted(name for name in metrics if METRICS[name].compared)
    if not compared:
        return None
    if reference is None:
        raise ValueError(f"{compared} compare with real images: a reference is needed")
    width = extractor(runs[0].pixels(0, 1))[0].shape[1]
    reference.check_extractor(extractor.described(), width)
    if any(METRICS[name].features for name in metrics) or reference.mean is None:
        reference = with_features(reference, extractor, batch_size, progress)
    return reference


def _card(
    runs: Sequence[Images],
    extractor: Extractor,
    found: Measured,
    facts: ModelFacts,
    batch_size: int,
) -> MetricCard:
    told = [run.described() for run in runs]
    seeds = tuple(str(t["seeds"]) for t in told if t["seeds"] is not None)
    described = extractor.described()
    return MetricCard(
        metric="",
        reported="",
        samples=found.moments.count,
        seeds=seeds or None,
        labels=told[0]["labels"],
        nfe=told[0]["nfe"],
        sampler=told[0]["sampler"],
        uint8=told[0]["uint8"],
        resize=described.pop("resize"),
        extractor={**described, "width": len(found.moments.mean)},
        reference=None,
        model=facts.name or told[0].get("data"),
        model_sha256=facts.sha256,
        ema_rate=facts.ema_rate,
        global_batch=facts.global_batch,
        training_step=facts.step,
        batch_size=batch_size,
        processes=ranks.rank_and_size()[1],
        environment=environment(),
        notes=facts.notes,
    )


def _number(
    name: str, values: list[float], words: str, reference: Reference | None, common: MetricCard
) -> Number:
    smallest = name in SMALLEST
    value = min(values) if smallest else sum(values) / len(values)
    way = f"{'smallest' if smallest else 'mean'} of {len(values)} seed ranges"
    notes, width = list(common.notes), common.extractor["width"]
    counts = {"samples": common.samples}
    if reference is not None and type(reference.card.get("samples")) is int:
        counts["reference images"] = reference.card["samples"]
    for what, count in counts.items():
        if name == "fid" and count <= width:
            notes.append(
                f"{count} {what} for {width} features: the covariance is singular, the distance "
                "too large"
            )
    against = None
    if reference is not None:
        used = reference.features if reference.features is not None and name != "fid" else None
        against = {**reference.card, **({} if used is None else {"features": len(used)})}
    card = dataclasses.replace(
        common,
        metric=words,
        reported="the one seed range" if len(values) == 1 else way,
        reference=against,
        notes=tuple(notes),
    )
    return Number(name, value, tuple(values), card)

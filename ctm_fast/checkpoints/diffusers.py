"""Reader of diffusers' UNet2DModel: folders, files, live objects. diffusers is not imported."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..models import config_from_json, diffusers_config
from ..models.configs import ADMConfig, Config
from ..models.key_layouts import without_prefix
from ..models.recognise import recognise
from ..models.recognised import Recognised
from ..precond import CM, Plain, Preconditioning
from .building import check_levels
from .diffusers_files import CONFIG, PIPELINE, SCHEDULER, read_json, read_weights
from .diffusers_scheduler import Role, from_scheduler, of_kind, without_scheduler
from .found import Found
from .parametrisation import parametrisation
from .torch_file import read_state

_OWN = "CTMModel"  # of ctm_fast.integrations
_LATENT = ("vqvae", "vae", "autoencoder")  # components that stand between images and the network


def read(source: Any, overrides: dict[str, Any]) -> Found:
    """Model of diffusers' unconditional and class-conditional pipelines.

    Args:
        source: folder of a pipeline (model_index.json, unet/, scheduler/) or of a UNet2DModel
            (config.json); file or mapping of its weights; live UNet2DModel or pipeline.
        overrides: kind, precond, sigma_min, sigma_max, sigma_data, and fields of `ADMConfig`; what
            is used is removed.

    Raises:
        ValueError: for classes, options or values that are not supported, each named; for files
            that are missing or do not fit together.
        DamagedCheckpoint: for a file that is truncated or altered.
    """
    if isinstance(source, Mapping):
        return _bare(without_prefix(source), overrides, {})
    if not isinstance(source, str | Path):
        return from_module(source, overrides)
    path = Path(source)
    if path.is_file():
        beside = path.parent / CONFIG
        if not beside.is_file():
            return _bare(without_prefix(read_state(path)), overrides, {"file": path.name})
        return _folder(path.parent, overrides, path)
    if (path / PIPELINE).is_file():
        return _pipeline(path, overrides)
    if (path / CONFIG).is_file():
        return _folder(path, overrides)
    raise ValueError(f"{path} is no folder of diffusers: it has neither {PIPELINE} nor {CONFIG}")


def from_module(module: Any, overrides: dict[str, Any]) -> Found:
    """Model of a live UNet2DModel, or of a pipeline with one and its scheduler.

    The state refers to the module's own weights. The arguments and errors are those of `read`.
    """
    scheduler = None
    if not isinstance(module, nn.Module) and isinstance(getattr(module, "unet", None), nn.Module):
        scheduler = _live_options(getattr(module, "scheduler", None))
        module = module.unet
    if not isinstance(module, nn.Module):
        raise ValueError(f"a {type(module).__name__} is no UNet2DModel and no pipeline with one")
    recognised = diffusers_config.from_module(module, overrides.get("img_resolution"))
    if recognised is None:
        raise ValueError(
            f"a {type(module).__name__} is not supported; need a UNet2DModel with its config"
        )
    state = {name: value.detach() for name, value in module.state_dict().items()}
    return _found(recognised, state, scheduler, overrides, {"class": type(module).__name__})


def _live_options(scheduler: Any) -> dict[str, Any] | None:
    options = getattr(scheduler, "config", None)
    if not isinstance(options, Mapping):
        return None
    return {**options, "_class_name": type(scheduler).__name__}


def _pipeline(folder: Path, overrides: dict[str, Any]) -> Found:
    index = read_json(folder / PIPELINE)
    parts = sorted(name for name in index if not name.startswith("_"))
    if "unet" not in parts or not (folder / "unet").is_dir():
        raise ValueError(
            f"{folder} is a pipeline without a unet folder, which is not supported; its parts are "
            f"{parts}"
        )
    found = _folder(folder / "unet", overrides)
    if latent := [name for name in _LATENT if name in parts]:
        found.notes.append(f"the network works on the latents of the pipeline's {latent[0]}")
    found.provenance["pipeline"] = str(index.get("_class_name"))
    return found


def _folder(folder: Path, overrides: dict[str, Any], file: Path | None = None) -> Found:
    """Model of a folder with config.json; the scheduler is the one of the pipeline around it."""
    options = read_json(folder / CONFIG)
    name = options.get("_class_name")
    if name == _OWN:
        return _own(folder, options, overrides, file)
    if name not in diffusers_config.CLASS_NAMES:
        raise ValueError(
            f"{folder / CONFIG} describes a {name!r}, which is not supported; supported are "
            f"{[*diffusers_config.CLASS_NAMES, _OWN]}"
        )
    recognised = diffusers_config.from_options(options, overrides.get("img_resolution"))
    around = folder.parent / "scheduler" / SCHEDULER
    scheduler = None
    if (folder.parent / PIPELINE).is_file() and around.is_file():
        scheduler = read_json(around)
    state, stored = read_weights(folder) if file is None else (read_state(file), file.name)
    provenance = {"class": name, "file": stored}
    if version := options.get("_diffusers_version"):
        provenance["diffusers_version"] = str(version)
    return _found(recognised, without_prefix(state), scheduler, overrides, provenance)


def _own(
    folder: Path, options: dict[str, Any], overrides: dict[str, Any], file: Path | None
) -> Found:
    """Model that ctm_fast.integrations' CTMModel saved: it says itself what it is."""
    try:
        config = config_from_json(options["network"])
        precond = Preconditioning.from_json(options["preconditioning"])
        role = Role(
            str(options["kind"]),
            precond,
            float(options["sigma_min"]),
            float(options["sigma_max"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{folder / CONFIG} describes a {_OWN} that cannot be built: {error}"
        ) from None
    kind = overrides.pop("kind", role.kind)
    role = _overridden(dataclasses.replace(role, kind=kind), overrides)
    state, stored = read_weights(folder) if file is None else (read_state(file), file.name)
    provenance = {"class": _OWN, "file": stored}
    return _as_found(config, "own", without_prefix(state), role, [], provenance)


def _bare(state: dict[str, Tensor], overrides: dict[str, Any], provenance: dict[str, Any]) -> Found:
    recognised = recognise(state, overrides)
    if recognised.layout != "diffusers":
        raise ValueError(
            f"this is no state dict of diffusers, but of the layout {recognised.layout!r}; load it "
            "with format='auto'"
        )
    return _found(recognised, state, None, overrides, provenance)


def _found(
    recognised: Recognised,
    state: dict[str, Tensor],
    scheduler: Mapping[str, Any] | None,
    overrides: dict[str, Any],
    provenance: dict[str, Any],
) -> Found:
    config, notes = recognised.config, list(recognised.notes)
    assert isinstance(config, ADMConfig)
    fields = {field.name for field in dataclasses.fields(config)} & set(overrides)
    try:
        config = dataclasses.replace(config, **{name: overrides.pop(name) for name in fields})
    except TypeError as error:
        raise ValueError(f"the overrides {sorted(fields)} do not fit: {error}") from None
    role = _role(config, scheduler, overrides, notes)
    if scheduler is not None:
        provenance["scheduler"] = str(scheduler["_class_name"])
    if recognised.output_rows is not None:
        for name in ("conv_out.weight", "conv_out.bias"):
            if name in state:
                state[name] = state[name][: config.img_channels].clone()
        notes.append("the network predicts a variance too, which is left out")
    return _as_found(config, recognised.layout, state, role, notes, provenance)


def _as_found(
    config: Config,
    layout: str,
    state: dict[str, Tensor],
    role: Role,
    notes: list[str],
    provenance: dict[str, Any],
) -> Found:
    return Found(
        format="diffusers",
        config=config,
        layout=layout,
        state=state,
        precond=role.precond,
        kind=role.kind,
        sigma_min=role.sigma_min,
        sigma_max=role.sigma_max,
        notes=notes,
        provenance=provenance,
    )


def _role(
    config: ADMConfig,
    scheduler: Mapping[str, Any] | None,
    overrides: dict[str, Any],
    notes: list[str],
) -> Role:
    """What the network's output means: as the scheduler says, unless the user says otherwise."""
    kind = overrides.pop("kind", None)
    if scheduler is None:
        role, note = without_scheduler(config, kind)
        notes += [] if "precond" in overrides else [note]
    else:
        role = from_scheduler(scheduler)
        role = role if kind is None else of_kind(role, kind)
    if "precond" in overrides:
        precond, low, high = parametrisation("edm", role.precond.noise_embedding, overrides)
        return Role(role.kind, precond, low, high)
    return _overridden(role, overrides)


def _overridden(role: Role, overrides: dict[str, Any]) -> Role:
    """The role with the noise levels and sigma_data that the user gave."""
    low = overrides.pop("sigma_min", role.sigma_min)
    high = overrides.pop("sigma_max", role.sigma_max)
    inner = role.precond.inner
    check_levels(low, high, overrides.get("sigma_data", inner.sigma_data))
    if isinstance(inner, CM):
        inner = dataclasses.replace(inner, sigma_min=low)
    # Where the image itself is predicted, sigma_data is a part of c_in.
    if "sigma_data" in overrides and not isinstance(inner, Plain):
        inner = dataclasses.replace(inner, sigma_data=overrides.pop("sigma_data"))  # type: ignore[type-var]
    precond = Preconditioning(inner, role.precond.outer, role.precond.noise_embedding)
    return Role(role.kind, precond, low, high)

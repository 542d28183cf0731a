"""The two files beside a published model's weights: `config.json` and a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

LIBRARY = "ctm_fast"
TAGS = ("diffusion", "consistency-models", "image-generation")
_CITATION = """@inproceedings{kim2024ctm,
  title     = {Consistency Trajectory Models: Learning Probability Flow {ODE} Trajectory of
               Diffusion},
  author    = {Kim, Dongjun and Lai, Chieh-Hsin and Liao, Wei-Hsiang and Murata, Naoki and
               Takida, Yuhta and Uesaka, Toshimitsu and He, Yutong and Mitsufuji, Yuki and
               Ermon, Stefano},
  booktitle = {International Conference on Learning Representations},
  year      = {2024},
  url       = {https://arxiv.org/abs/2310.02279}
}"""
_KINDS = {
    "denoiser": "denoises; sampled with an ODE solver",
    "consistency": "jumps from any noise level to the smallest one",
    "trajectory": "jumps from any noise level to any smaller one",
}


def config_json(header: Mapping[str, Any]) -> str:
    """Text of `config.json`: what the header of the weights says, for readers without the library.

    Args:
        header: of a model file, see `native.header`.
    """
    return json.dumps({"library": LIBRARY, **header}, indent=2, sort_keys=True) + "\n"


def agrees(text: str | bytes, header: Mapping[str, Any]) -> list[str]:
    """Fields in which `config.json` and the header differ; provenance is not looked at.

    Raises:
        ValueError: if the text is not a JSON object.
    """
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"config.json is not JSON: {error}") from None
    if not isinstance(said, dict):
        raise ValueError("config.json is not a JSON object")
    wanted = {"kind", "net", "precond", "sigma_data", "sigma_max", "sigma_min"}
    return sorted(name for name in wanted & set(said) if said[name] != header.get(name))


def model_card(header: Mapping[str, Any], name: str, licence: str | None = None) -> str:
    """Text of `README.md`, with the metadata block that the Hugging Face Hub reads.

    Args:
        header: of a model file, see `native.header`.
        name: how the model is loaded, a repository ("owner/name") or a folder.
        licence: identifier of the weights' licence; "unknown" if not given.
    """
    kind, net = header["kind"], header["net"]
    meta = {"library_name": LIBRARY, "license": licence or "unknown", "tags": list(TAGS)}
    block = "\n".join(f"{key}: {json.dumps(value)}" for key, value in meta.items())
    size, classes = net["img_resolution"], net["label_dim"]
    rows = {
        "kind": f"{kind}: {_KINDS.get(kind, '')}",
        "images": f"{net['img_channels']} x {size} x {size}, values in [-1, 1]",
        "classes": classes or "none (unconditional)",
        "noise levels": f"{header['sigma_min']:g} to {header['sigma_max']:g}",
        "sigma_data": f"{header['sigma_data']:g}",
        "network": net["family"],
        "parametrisation": f"`{json.dumps(header['precond'])}`",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    provenance = dict(header.get("provenance") or {})
    notes = provenance.pop("notes", [])
    assumed = "".join(f"\n- {_one_line(note)}" for note in notes) or "\n- nothing"
    title = _one_line(name.rstrip("/").rpartition("/")[2]) or "model"
    return f"""---
{block}
---

# {title}

| | |
|---|---|
{table}

## Sample

```python
import ctm_fast

model = ctm_fast.from_pretrained({json.dumps(name)})
images = ctm_fast.Sampler(model)(16, seed=0)  # (16, {net["img_channels"]}, {size}, {size})
```

## Provenance

Licence of the weights: {_one_line(licence or "unknown")}. What is known about where they come from:

```json
{json.dumps(provenance, indent=2, sort_keys=True)}
```

Assumed when they were loaded from another format:
{assumed}

## Citation

```bibtex
{_CITATION}
```
"""


def _one_line(text: Any) -> str:
    return " ".join(str(text).split())

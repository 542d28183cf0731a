"""What a state dict that no recogniser knows looks like."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

# Output layers in the layouts of networks that may predict a variance too.
_OUTPUT = re.compile(r"(out\.2|conv_out|out_conv|dec\.\d+x\d+_aux_conv)\.(weight|bias)")
# First match counts: what it is, and a pattern that some of its names match.
_SIGNS = (
    ("a discriminator of CTM's GAN training (d_model*.pt)", r"(.*\.)?mini_discs\.|deit_base_"),
    ("the state of an optimizer (opt*.pt)", r"(param_groups|state)(\.|$)"),
    ("weights of the LPIPS distance", r"lins?\d*\.(\d+\.)?model\.|lin\d\.|net\.slice\d"),
    (
        "an EDM2 network (NVlabs/edm2, and ECT and TCM on ImageNet), which is not supported",
        r"(unet\.)?(emb_fourier|emb_noise|out_gain|logvar_)",
    ),
    ("a network of score_sde_pytorch, which is not supported", r"(.*\.)?all_modules\.\d"),
    ("a flax network, which is not supported", r".*(/kernel|\.kernel)$"),
    ("a UNet2DModel of diffusers", r"(down_blocks\.|conv_in\.|time_embedding\.linear)"),
    ("a latent-diffusion model, which is not supported", r"(first_stage_model|cond_stage_model)"),
    ("a transformer, which is not supported", r"(x_embedder|.*\.attn1\.|transformer)"),
    ("a classifier network (VGG, ResNet, ...)", r"(features\.\d|layer\d\.\d|fc\.)"),
)


def describe(names: Collection[str]) -> str:
    """What such names belong to, as the end of "it looks like ..."."""
    names = list(names)
    if not names:
        return "an empty file"
    for what, sign in _SIGNS:
        if _any(names, sign):
            return what
    if _any(names, r"time_embed\.") and not _any(names, r"output_blocks\."):
        return "a noisy-image classifier of guided-diffusion (an encoder without decoder)"
    if _any(names, r"time_embed_s\.|.*emb_layers_s\.|.*affine_s\."):
        return "an incomplete trajectory network"
    if _any(names, r"(input|output)_blocks\.") or _any(names, r"(enc|dec)\.\d+x\d+"):
        return "an incomplete U-Net"
    return "no network that is known"


def examples(names: Collection[str]) -> str:
    """How many names there are, and the first of them."""
    shown = ", ".join(sorted(map(str, names))[:4])
    return f"{len(names)} keys" + (f", for example {shown}" if shown else "")


def _any(names: Iterable[str], pattern: str) -> bool:
    return any(re.match(pattern, name) for name in names)


def output_rows(state: Mapping[str, Tensor], start: int, stop: int) -> dict[str, Tensor]:
    """The state with some of the rows of its output layers, the others as they are."""
    return {
        name: value[start:stop] if _OUTPUT.fullmatch(name) else value
        for name, value in state.items()
    }

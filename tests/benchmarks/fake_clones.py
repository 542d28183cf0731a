"""Folders that look like clones of other code bases; the networks are ours, called like theirs."""

from pathlib import Path

EDM = '''
"""A network with the names and the call of edm's."""
from ctm_fast.models import SongConfig, SongUNet as Ours
from ctm_fast.models.key_layouts import from_published
from torch_utils.persistence import MARK
import flash_attn


class SongUNet(Ours):
    def __init__(self, img_resolution, in_channels, out_channels, label_dim,
                 embedding_type="positional", encoder_type="standard", decoder_type="standard",
                 training_mode="", **sizes):
        sizes = {k: tuple(v) if isinstance(v, list) else v for k, v in sizes.items()}
        config = SongConfig(img_resolution=img_resolution, img_channels=in_channels,
                            label_dim=label_dim, destination=training_mode == "ctm",
                            embedding=embedding_type, encoder=encoder_type,
                            decoder=decoder_type, **sizes)
        super().__init__(config)

    def load_state_dict(self, state, strict=True):
        return super().load_state_dict(from_published(state, self.config, "edm"), strict)

    def forward(self, x, noise, *others):
        to, labels = others if len(others) == 2 else (None, *others)
        own = next(self.parameters()).dtype
        return super().forward(x.to(own), noise, to, labels).to(x.dtype)
'''

WRAPPER = """

class EDMPrecond_CTM(__import__("torch").nn.Module):
    def __init__(self, img_resolution, img_channels, label_dim, use_fp16, training_mode, arch,
                 **sizes):
        super().__init__()
        self.model = SongUNet(img_resolution, img_channels, img_channels, label_dim,
                              training_mode=training_mode, **sizes)

    def forward(self, x, t, s=None, teacher=False):
        return self.model(x, t, s, None)
"""

DENOISER = '''
"""A loss with the names of the published one."""
from types import SimpleNamespace


def train_defaults(data_name):
    return {"start_scales": 18, "data_name": data_name, "large_log": False}


def create_named_schedule_sampler(args, name, scales):
    return SimpleNamespace(name=name, scales=scales)


class KarrasDenoiser:
    def __init__(self, args, schedule_sampler, diffusion_schedule_sampler, feature_extractor):
        self.args, self.distance = args, feature_extractor
        assert schedule_sampler.name == "uniform" and args.loss_norm == "lpips"

    def ctm_losses(self, step, model, x_start, model_kwargs, target_model, num_heun_step,
                   diffusion_training_):
        t = x_start.new_ones(len(x_start))
        answer = model(x_start, t, t)
        other = self.teacher_model(x_start, t, teacher=True) + target_model(x_start, t, t)
        consistency = self.distance((answer + 1) / 2, (other + 1) / 2)
        return {"consistency_loss": consistency, "denoising_loss": (answer**2).flatten(1).mean(1)}
'''


def fake_edm(folder: Path, mark: str = "edm") -> Path:
    """A folder that is taken for NVlabs/edm."""
    return _write(
        folder,
        {
            "train.py": "",
            "torch_utils/__init__.py": "",
            "torch_utils/persistence.py": f"MARK = {mark!r}\n",
            "training/__init__.py": "",
            "training/networks.py": EDM,
        },
    )


def fake_ctm(folder: Path, mark: str = "ctm", root: str = "") -> Path:
    """A folder that is taken for ctm-cifar10, or for sony/ctm if `root` is "code/"."""
    network = EDM.replace("torch_utils.persistence", "cm.mark") + WRAPPER
    files = {
        "cm/__init__.py": "",
        "cm/mark.py": f"MARK = {mark!r}\n",
        "cm/networks.py": network,
        "cm/unet.py": "",
        "cm/script_util.py": DENOISER,
        "cm/resample.py": DENOISER,
        "cm/karras_diffusion.py": DENOISER,
    }
    return _write(folder, {root + name: text for name, text in files.items()})


def _write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder

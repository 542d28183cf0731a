"""Edit digits, and photo patches for colour, with models that were never trained for it.

    python examples/edit_images.py [training steps [folder]]

Trains two small models, or loads those of an earlier run, and writes a picture per edit: images,
what is known of them, results of gamma 0, 0.5 and 1. Pictures worth looking at take 1000 steps.
"""

# %% Two small models
import sys
from pathlib import Path

import torch

from ctm_fast import Denoiser, Sampler, Trainer, data, editing, load, models, save
from ctm_fast.evaluation import grid_png
from ctm_fast.precond import EDM, Preconditioning
from ctm_fast.presets import preset_named

STEPS, OUT = int((sys.argv[1:2] or [4])[0]), Path((sys.argv[2:3] or ["edited"])[0])
OWN = dict(steps=STEPS, batch_size=min(STEPS, 128), lr_warmup=0, lr_cooldown=STEPS * 3 // 4)
GAMMAS, JUMPS = (0, 0.5, 1), min(STEPS, 18)
OUT.mkdir(parents=True, exist_ok=True)


def fit(name, model, dataset, teacher=None):
    loss, config = preset_named(name).objective(), preset_named(name).train()
    trainer = Trainer(loss, model, teacher=teacher, data=dataset, config=config, **OWN)
    trainer.fit()
    return trainer.ema


def trained(dataset):
    path = OUT / f"{dataset.name}-{STEPS}.safetensors"
    if not path.is_file():
        shape = dict(img_channels=dataset.shape[0], img_resolution=dataset.shape[1])
        net = models.build("digits", label_dim=dataset.num_classes, **shape)
        scalings = Preconditioning(EDM(dataset.sigma_data))
        model = Denoiser(net, scalings, sigma_min=0.01, sigma_max=20.0)
        teacher = fit("dsm-digits", model, dataset)
        save(fit("ctm-digits", models.student_from(teacher), dataset, teacher), path)
    return load(path)


digits, patches = data.open("digits"), data.open("photo-patches", size=16)
digit_model, patch_model, rows = trained(digits), trained(patches), torch.arange(8) * 37 + 5
images, labels, photos = digits.images(rows), digits.labels(rows), patches.images(rows * 29)


# %% Inpainting, super-resolution, colours: a part is known
def restore(name, model, operator, images, **options):
    known = operator.measure(images)
    shown = operator.spread(known) if known.shape[-1] < images.shape[-1] else known
    restored = [images, shown.expand_as(images)]
    for gamma in GAMMAS:
        restorer = editing.Restorer(Sampler(model, steps=JUMPS, gamma=gamma), operator, repeats=2)
        restored.append(restorer(known, **options))
    grid_png(torch.cat(restored), OUT / f"{name}.png", ncol=8)
    error = max((operator.measure(x) - known).abs().max().item() for x in restored[2:])
    print(f"{name}: {restorer.nfe} network calls, what is known differs by {error:.0e}")


mask = (torch.arange(8) < 4).expand(8, 8)  # the left half is known
restore("inpainting", digit_model, editing.Inpainting(mask), images, labels=labels)
restore("super-resolution", digit_model, editing.SuperResolution(2), images, labels=labels)
restore("colours", patch_model, editing.Colourisation(), photos)

# %% Strokes: the higher the level and gamma, the less is left of them
painted = [torch.where(images > 0, 0.6, -1.0).roll(1, 3)]
for level, gamma in [(level, gamma) for level in (0.5, 1.5) for gamma in GAMMAS]:
    sampler = Sampler(digit_model, steps=4, gamma=gamma)
    painted.append(editing.StrokePainter(sampler, level)(painted[0], labels=labels))
grid_png(torch.cat(painted), OUT / "strokes.png", ncol=8)

# %% Paths between samples
sampler = Sampler(digit_model, steps=2)
paths = [editing.Interpolator(sampler)(k, k + 1, 8, labels=k) for k in range(5)]
grid_png(torch.cat(paths), OUT / "paths.png", ncol=8)
same = torch.allclose(paths[3][:1], sampler(seed=[3], labels=3), atol=1e-5)
print(f"paths begin at the samples of their seeds: {same}")

"""Folders, files and live objects of diffusers become models that compute the same."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ctm_fast import models
from ctm_fast.checkpoints.building import built
from ctm_fast.checkpoints.diffusers import from_module, read
from ctm_fast.denoiser import Denoiser
from ctm_fast.precond import CM, EDM, Epsilon, Plain, Preconditioning
from ctm_fast.sampler import Sampler
from tests.diffusers_models import FAMILIES, inputs, library, tiny


def loaded(source, **overrides):
    found = read(source, overrides)
    assert not overrides
    return built(found)


def pipeline(kind="consistency", family=None, **options):
    """Pipeline of diffusers around a tiny model."""
    package = library()
    name = {"consistency": "CMStochasticIterativeScheduler", "ddpm": "DDPMScheduler"}[kind]
    scheduler = getattr(package, name)(**options)
    around = {"consistency": "ConsistencyModelPipeline", "ddpm": "DDPMPipeline"}[kind]
    pipe = getattr(package, around)(tiny(family or kind), scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def saved(path, pipe, **options):
    pipe.save_pretrained(path, **options)
    return path


def assert_same(model, unet, times):
    """The raw output of the network for the given times."""
    given = inputs(unet)
    time = torch.tensor(times)
    with torch.no_grad():
        expected = unet(given["x"], time, given["labels"]).sample
        found = model.raw(given["x"], time, None, given["labels"])
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("safe", [True, False])
def test_consistency_pipeline(tmp_path, safe):
    pipe = pipeline(sigma_max=60.0, sigma_data=0.6)
    model = loaded(saved(tmp_path, pipe, safe_serialization=safe))
    assert model.kind == "consistency" and model.notes == ()
    assert (model.sigma_min, model.sigma_max) == (0.002, 60.0)
    assert model.precond == Preconditioning(CM(0.6, 0.002), noise_embedding="log_250")
    assert_same(model, pipe.unet, [0.0, -1553.6, 1000.0])


def test_one_step_of_the_pipeline_is_our_onestep(tmp_path):
    pipe = pipeline()
    model = loaded(saved(tmp_path, pipe))
    noise = inputs(pipe.unet, batch=4)["x"]
    labels = torch.tensor([0, 4, 2, 2])
    theirs = pipe(
        batch_size=4, class_labels=labels, latents=noise, num_inference_steps=1, output_type="pt"
    ).images
    sampler = Sampler(model, steps=1, method="onestep", latents="unit", dtype=torch.float32)
    ours = sampler(noise=noise, labels=labels) / 2 + 0.5
    assert (ours - theirs).abs().max() <= 1e-5
    assert theirs.std() > 0.05


def abar(scheduler):
    """The table in float64."""
    config = scheduler.config
    ends = config.beta_start, config.beta_end
    betas = torch.linspace(*ends, config.num_train_timesteps, dtype=torch.float64)
    return (1 - betas).cumprod(0)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_ddpm_predictions_for_every_timestep(tmp_path, prediction):
    pipe = pipeline("ddpm", num_train_timesteps=40, beta_end=0.3, prediction_type=prediction)
    model = loaded(saved(tmp_path, pipe))
    assert model.kind == "denoiser"
    model.double()
    unet, table = pipe.unet.double(), abar(pipe.scheduler)
    x_t = inputs(unet, batch=40)["x"].double()
    steps = torch.arange(40)
    signal, noise = (v.sqrt()[:, None, None, None] for v in (table, 1 - table))
    with torch.no_grad():
        output = unet(x_t, steps).sample
        # diffusers' x_t has unit variance; ours is x0 plus sigma times noise.
        found = model(x_t / signal, ((1 - table) / table).sqrt())
    expected = {
        "epsilon": (x_t - noise * output) / signal,
        "v_prediction": signal * x_t - noise * output,
        "sample": output,
    }[prediction]
    size = expected.abs().amax((1, 2, 3), keepdim=True)
    assert ((found - expected).abs() <= 1e-5 * size).all()
    step = pipe.scheduler.step(output[7], 7, x_t[7]).pred_original_sample
    assert (step - expected[7].clamp(-1, 1)).abs().max() <= 1e-4


def test_published_ddpm_schedule(tmp_path):
    model = loaded(saved(tmp_path, pipeline("ddpm")))
    assert model.precond.noise_embedding.steps == 1000
    assert model.sigma_max == pytest.approx(157.41, abs=0.01)
    levels = model.precond.noise_embedding.sigmas.float()
    assert torch.equal(model.precond.c_noise(levels), torch.arange(1000.0))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_by_its_folder(tmp_path, family):
    unet = tiny(family)
    unet.save_pretrained(tmp_path)
    model = loaded(tmp_path)
    assert_same(model, unet, [0.0, 100.0, 999.0])
    assert "there is no scheduler" in model.notes[0]


def test_live_models_and_pipelines():
    unet = tiny("ddpm")
    found = from_module(unet, {})
    weight = dict(unet.named_parameters())["conv_in.weight"]
    assert found.state["conv_in.weight"].data_ptr() == weight.data_ptr()
    model = built(found)
    assert_same(model, unet, [1.0, 2.0, 3.0])
    assert isinstance(model.precond.inner, Epsilon)
    theirs = pipeline(sigma_max=70.0)
    ours = loaded(theirs)
    assert ours.sigma_max == 70.0 and ours.kind == "consistency" and ours.notes == ()
    for other in (torch.nn.Linear(1, 1), 3, object()):
        with pytest.raises(ValueError, match=r"is not supported|is no UNet2DModel"):
            from_module(other, {})


def test_weights_alone_and_beside_their_config(tmp_path):
    unet = tiny("ddpm")
    told = {"max_groups": 4, "img_resolution": 8}
    assert_same(loaded(unet.state_dict(), **told), unet, [0.0, 50.0, 99.0])
    alone = tmp_path / "weights.safetensors"
    save_file(unet.state_dict(), alone)
    model = loaded(alone, **told)
    assert_same(model, unet, [0.0, 50.0, 99.0])
    assert any("not stored" in note for note in model.notes)
    unet.save_config(tmp_path)
    assert not any("not stored" in note for note in loaded(alone).notes)
    foreign = models.build("ctm-digits").state_dict()
    with pytest.raises(ValueError, match="this is no state dict of diffusers"):
        read(foreign, {})


def test_a_folder_inside_a_pipeline_has_its_scheduler(tmp_path):
    saved(tmp_path, pipeline(sigma_max=33.0))
    assert loaded(tmp_path / "unet").sigma_max == 33.0
    (tmp_path / "model_index.json").unlink()
    assert loaded(tmp_path / "unet").sigma_max == 80.0


def test_overrides(tmp_path):
    saved(tmp_path, pipeline())
    model = loaded(
        tmp_path, kind="denoiser", sigma_min=0.01, sigma_max=50.0, sigma_data=0.7, dropout=0.2
    )
    assert (model.kind, model.sigma_min, model.sigma_max) == ("denoiser", 0.01, 50.0)
    assert model.precond.inner == EDM(0.7) and model.net.config.dropout == 0.2
    assert loaded(tmp_path, sigma_min=0.01).precond.inner == CM(0.5, 0.01)
    own = Preconditioning(Plain(2.0))
    model = loaded(tmp_path, precond=own, sigma_max=10.0)
    assert model.precond == own and model.sigma_max == 10.0
    assert loaded(tmp_path, precond="edm").precond.noise_embedding == "log_250"
    assert loaded(tmp_path, img_resolution=16).img_resolution == 16


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"dropout": "high"}, r"overrides \['dropout'\] do not fit"),
        ({"img_resolution": "8"}, "'8' is not supported"),
        ({"img_resolution": 7}, "img_resolution 7 does not divide by 2"),
        ({"kind": "trajectory"}, "needs a network with a destination"),
        ({"kind": "teacher"}, "unknown kind 'teacher'"),
        ({"precond": "ddpm"}, "unknown precond 'ddpm'"),
        ({"model_channels": 16}, "has shape"),
        ({"sigma_min": 90.0}, "sigma_min"),
        ({"sigma_data": "large"}, "sigma_data"),
    ],
)
def test_overrides_that_do_not_fit(tmp_path, overrides, message):
    saved(tmp_path, pipeline())
    with pytest.raises(ValueError, match=message):
        loaded(tmp_path, **overrides)


def test_a_variance_is_left_out(tmp_path):
    unet = tiny("ddpm", out_channels=6)
    unet.save_pretrained(tmp_path)
    model = loaded(tmp_path)
    assert "variance" in model.notes[-1]
    x, time = inputs(unet)["x"], torch.tensor([1.0, 2.0, 3.0])
    with torch.no_grad():
        expected = unet(x, time).sample[:, :3]
        assert (model.raw(x, time) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_half_precision_weights(tmp_path):
    pipe = pipeline()
    pipe.unet.half()
    saved(tmp_path, pipe, variant="fp16")
    assert next(loaded(tmp_path).parameters()).dtype == torch.float16


def test_models_that_our_own_pipeline_saved(tmp_path):
    library()
    from ctm_fast.integrations.diffusers import CTMModel

    net = models.build("ctm-digits", model_channels=8, channel_mult=(1, 1))
    model = Denoiser(net, Preconditioning(EDM(0.75)), sigma_max=20.0)
    CTMModel.from_denoiser(model).save_pretrained(tmp_path)
    again = loaded(tmp_path)
    assert (again.kind, again.precond, again.sigma_max) == ("trajectory", model.precond, 20.0)
    state = model.net.state_dict()
    assert all(torch.equal(value, state[n]) for n, value in again.net.state_dict().items())


def edited(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("unet/config.json", {"_class_name": "UNet2DConditionModel"},
         "describes a 'UNet2DConditionModel', which is not supported"),
        ("unet/config.json", {"act_fn": "relu"}, "act_fn='relu' is not supported"),
        ("unet/config.json", {"layers_per_block": 2}, "missing .* left over none|missing"),
        ("unet/config.json", {"_class_name": "CTMModel"}, "CTMModel that cannot be built"),
        ("scheduler/scheduler_config.json", {"_class_name": "TCDScheduler"}, "'TCDScheduler'"),
        ("scheduler/scheduler_config.json", {"sigma_min": 90.0}, "need 0 < sigma_min"),
    ],
)  # fmt: skip
def test_descriptions_that_are_refused(tmp_path, file, changes, message):
    edited(saved(tmp_path, pipeline()) / file, **changes)
    with pytest.raises(ValueError, match=message):
        loaded(tmp_path)


def test_folders_that_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is no folder of diffusers"):
        read(tmp_path, {})
    (tmp_path / "model_index.json").write_text('{"_class_name": "X", "transformer": []}')
    with pytest.raises(ValueError, match=r"without a unet folder.*\['transformer'\]"):
        read(tmp_path, {})


def test_latent_models_are_pointed_out(tmp_path):
    edited(saved(tmp_path, pipeline()) / "model_index.json", vqvae=["diffusers", "VQModel"])
    assert loaded(tmp_path).notes == ("the network works on the latents of the pipeline's vqvae",)


def test_diffusers_is_not_imported():
    package = Path(models.__file__).parents[1]
    for file in [*package.glob("checkpoints/*.py"), *package.glob("models/*.py")]:
        assert not re.search(r"^\s*(import|from) diffusers", file.read_text(), re.MULTILINE), file

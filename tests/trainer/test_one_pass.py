"""One backward pass for all terms: equal to the terms in turn, and its refusals."""

import pytest
import torch
from torch import nn

from ctm_fast.losses import CTM, DSM, Balance
from ctm_fast.rng import stream
from ctm_fast.trainer import TrainConfig
from ctm_fast.trainer.distributed import World
from ctm_fast.trainer.gradients import StepGradients
from ctm_fast.trainer.one_pass import backward_together, check_one_pass, student_outputs
from tests.trainer import tiny


def test_weights_and_gradients_by_hand():
    net = nn.Linear(3, 2, bias=False)
    x = torch.randn(5, 3, generator=stream(0))
    with student_outputs(net) as outputs:
        out = net(x)
        with torch.no_grad():
            net(x)
    net(x)
    assert len(outputs) == 1
    losses = [out.square().sum(), out.sin().sum()]
    terms = [torch.autograd.grad(loss, net.weight, retain_graph=True)[0] for loss in losses]
    weights, norms = backward_together(
        losses, outputs, net.weight, ("a", "b"), {"b": Balance(high=0.5)}, World(), scale=4.0
    )
    torch.testing.assert_close(norms, torch.stack([g.norm() / 4 for g in terms]))
    expected = (norms[0] / (norms[1] + 1e-4)).clamp(max=0.5)
    torch.testing.assert_close(weights, torch.stack([torch.ones(()), expected]))
    torch.testing.assert_close(net.weight.grad, terms[0] + expected * terms[1])


@pytest.mark.parametrize("options", [{}, {"adaptive": False}, {"denoising_weight": 0.0}])
def test_a_run_is_the_same(options):
    objective = CTM(num_scales=4, **options)
    plain, joint = tiny.trainer(objective, steps=3), tiny.trainer(objective, steps=3, one_pass=True)
    plain.fit(), joint.fit()
    for name, value in tiny.weights(plain.ema).items():
        torch.testing.assert_close(joint.ema.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_refusals():
    with pytest.raises(ValueError, match=r"one_pass=True keeps the whole batch's.*microbatch=4"):
        tiny.trainer(one_pass=True, microbatch=4)
    tiny.trainer(one_pass=True, microbatch=8)
    objective = CTM(num_scales=4, estimate_outer="student")
    with pytest.raises(ValueError, match="terms that call the student together, which this CTM"):
        tiny.trainer(objective, one_pass=True)
    assert not tiny.trainer(DSM(), one_pass=True)._gradients.one_pass
    for other in ({"capture": True}, {"precision": "fp16"}):
        with pytest.raises(ValueError, match="one_pass=True cannot be combined"):
            TrainConfig(one_pass=True, **other)
    with pytest.raises(ValueError, match="trains a module beside it"):
        check_one_pass(CTM(num_scales=4), None, 8, nn.Linear(1, 1))
    student = tiny.denoiser()
    student.net.last_layer.requires_grad_(False)
    with pytest.raises(ValueError, match="train the last layer"):
        tiny.trainer(student=student, one_pass=True).fit()


def test_the_share_of_a_process_decides():
    run = tiny.trainer()
    options = dict(batch_size=8, microbatch=4, seed=0, one_pass=True)
    assert StepGradients(run.objective, run.models, World(0, 2), **options).one_pass

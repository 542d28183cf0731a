"""Every file of examples/ runs as it is, offline, and prints what it promises.

One process imports torch and then runs each example in a fork of itself: they cannot see each
other, and torch is imported once.
"""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NUMBER = r"-?\d\.\d\d"
# What each prints; written out, so that an example that runs but is wrong fails.
PRINTS = {
    "accelerate_foreign": r"UNet2DModel: \(2, 16, 16, 3\), largest difference \de-0[5-9]",
    "diffusers_pipeline": r"4 images, largest difference to Sampler \d\.\de[-+]\d\d",
    "diffusers_scheduler": r"largest difference after the change 0\.0e\+00",
    "ect_generator_fn": r"2 calls: \(64, 3, 16, 16\), standard deviation 0\.50",
    "edm2_generate_images": r"float32, spread 0\.30\nguidance 2: .* spread 0\.16",
    "edm_sampler_fn": r"float64, means -0\.99, -0\.33, 0\.34, 1\.00",
    "edit_images": r"inpainting: .* by 0e\+00\n(.* by \de-0[78]\n){2}paths begin .* seeds: True",
    "fastgen_sample": r"denoiser.* -0\.49, 0\.00, 0\.24, 0\.75\ntrajectory.* -0\.49, 0\.00, 0\.2",
    "flow_matching_solver": r"mean 0\.50, spread 0\.10\n1 jump: .* mean 0\.50, spread 0\.10",
    "k_diffusion_sample": r"mean 0\.25 after 10 steps",
    "karras_sample": rf"onestep: .* -1\.00, -0\.33, 0\.33, 1\.00\nmultistep: .*({NUMBER}, ){{3}}",
    "load_and_sample": r"trajectory model.* in \[-1, 1\]: True\nsaved \['again\.safetensors'",
    "plain_callable": r"standard deviation 0\.50",
}

RUNNER = """
import json, os, runpy, socket, sys, tempfile, traceback
import torch, ctm_fast.sampler, ctm_fast.integrations.karras, ctm_fast.integrations.edm
torch.set_num_threads(1)

def refused(*args, **kwargs):
    raise OSError("examples must not need the network")

socket.socket.connect = socket.create_connection = refused
for path in json.loads(sys.argv[1]):
    with tempfile.TemporaryFile("w+") as printed:
        child = os.fork()
        if child == 0:
            os.dup2(printed.fileno(), 1)
            os.dup2(printed.fileno(), 2)
            code = 1
            try:
                sys.argv = [path]
                runpy.run_path(path, run_name="__main__")
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        printed.seek(0)
        print(json.dumps([path, code, printed.read()]), flush=True)
"""


def needs(path: Path) -> str | None:
    """Package beside the base ones that an example is about."""
    return "diffusers" if re.search(r"^from diffusers import", path.read_text(), re.M) else None


def missing(path: Path) -> bool:
    package = needs(path)
    return package is not None and find_spec(package) is None


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, tuple[int, str]]:
    """Exit code and output of every example."""
    offline = dict(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", PYTHONPATH=str(ROOT))
    paths = json.dumps([str(path) for path in EXAMPLES if not missing(path)])
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, paths],
        env={**os.environ, **offline},
        cwd=tmp_path_factory.mktemp("elsewhere"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {Path(path).stem: (code, printed) for path, code, printed in lines}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path: Path, runs: dict[str, tuple[int, str]]) -> None:
    assert not missing(path), f"needs {needs(path)}, of the extra `test`"
    code, printed = runs[path.stem]
    assert code == 0, printed
    assert re.search(PRINTS[path.stem], printed), printed


def test_every_example_says_what_it_prints_and_is_short() -> None:
    assert sorted(PRINTS) == [path.stem for path in EXAMPLES]
    for path in EXAMPLES:
        text = path.read_text()
        assert text.startswith('"""') and text.count("\n") <= 80, path.name

"""Damaged and hostile models of every format end in a clear error or in a whole model."""

import functools
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from ctm_fast.checkpoints import FORMATS, load
from ctm_fast.checkpoints.files import checksum
from ctm_fast.checkpoints.overrides import allowed_overrides

from .samples import SONG, edm_pickle, make, published

# A DamagedCheckpoint is a ValueError, a FileNotFoundError an OSError.
CLEAR = (ValueError, OSError)
MOST_SECONDS = 10.0  # of one load; the longest of these models takes a hundredth of it
LAYOUTS = {"ctm": "adm", "ctm-cifar10": "edm", "openai": "adm", "diffusers": "diffusers"}
LAYOUTS["state-dict"] = "edm"
DEPTHS = ["quick", pytest.param("deep", marks=pytest.mark.slow)]

ODD = [0, -1, 1, 3, 2**31, 10**30, 0.5, "", "edm", None, True, [], {}, [1, 2], "9" * 5000]
LEAVES = st.sampled_from(ODD) | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
Data = Any  # what hypothesis draws from


def fuzzed(body: Callable[[str, Data], None], name: str, depth: str) -> None:
    """Runs `body` on a few examples, always the same, or on many new ones."""
    quick = depth == "quick"
    options = settings(
        max_examples=20 if quick else 300,
        derandomize=quick,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    options(given(st.data())(lambda data: body(name, data)))()


def clear_or_whole(source: Any, **overrides: Any) -> bool:
    """Whether a source loads; asserts that it fails clearly if not, and soon."""
    start = time.perf_counter()
    try:
        model = load(source, **overrides)
    except CLEAR as error:
        assert str(error), "an error without a word"
        assert time.perf_counter() - start < MOST_SECONDS
        return False
    assert time.perf_counter() - start < MOST_SECONDS
    tensors = [*model.parameters(), *model.buffers()]
    assert not any(tensor.is_meta for tensor in tensors), "a half-built model"
    assert all(torch.isfinite(tensor).all() for tensor in tensors)
    size = 2 ** (len(model.net.config.channel_mult) - 1)
    x = torch.zeros(1, model.img_channels, size, size)
    labels = torch.zeros(1, dtype=torch.int64) if model.label_dim else None
    assert model(x, 1.0, labels).shape == x.shape
    return True


@functools.cache
def original(name: str) -> Any:
    return make(name, Path(tempfile.mkdtemp(prefix="ctm_fast_damaged_")))


@pytest.fixture(scope="module", autouse=True)
def cleaned():
    yield
    for name in FORMATS:
        path = original(name).path
        shutil.rmtree(path.parent)
    original.cache_clear()


def damaged(content: bytes, data: Data) -> bytes:
    """The content with a few bytes flipped, cut out, repeated or put in."""
    out = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        # Headers and tables of contents lie at the ends.
        near = st.integers(0, min(400, len(out)))
        at = data.draw(near | near.map(lambda n: len(out) - n) | st.integers(0, len(out)))
        match data.draw(st.sampled_from(["flip", "cut", "end", "insert", "repeat"])):
            case "flip" if at < len(out):
                out[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del out[at : at + data.draw(st.integers(1, 64))]
            case "end":
                del out[at:]
            case "insert":
                out[at:at] = data.draw(st.binary(min_size=1, max_size=16))
            case "repeat":
                out[at:at] = out[at : at + data.draw(st.integers(1, 64))]
    return bytes(out)


def replaced(tree: Any, data: Data) -> Any:
    """The JSON value with one place in it changed, removed or added."""
    if isinstance(tree, dict) and tree and data.draw(st.integers(0, 5)):
        key = data.draw(st.sampled_from(sorted(tree)))
        what = data.draw(st.sampled_from(["inside", "inside", "value", "remove", "rename"]))
        rest = {k: v for k, v in tree.items() if k != key}
        if what == "inside":
            return {**tree, key: replaced(tree[key], data)}
        if what == "value":
            return {**tree, key: data.draw(VALUES)}
        return rest if what == "remove" else {**rest, data.draw(st.text(max_size=5)): tree[key]}
    if isinstance(tree, list) and tree and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(tree) - 1))
        return [*tree[:at], replaced(tree[at], data), *tree[at + 1 :]]
    return data.draw(VALUES)


def damage_file(name: str, data: Data) -> None:
    sample = original(name)
    inside = [sample.path] if sample.path.is_file() else sorted(sample.path.rglob("*.*"))
    path = data.draw(st.sampled_from([file for file in inside if file.is_file()]))
    content = path.read_bytes()
    try:
        path.write_bytes(damaged(content, data))
        clear_or_whole(sample.path, **sample.overrides)
    finally:
        path.write_bytes(content)


def damage_state(name: str, data: Data) -> None:
    sample = original(name)
    state: dict[Any, Any] = published(sample.net, LAYOUTS[name])
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(st.sampled_from(sorted(map(str, state)) or ["a"]))
        other = data.draw(st.sampled_from(sorted(map(str, state)) or ["a"]))
        value = state.get(key, torch.zeros(1))
        match data.draw(st.sampled_from(["drop", "name", "swap", "shape", "fill", "type", "many"])):
            case "drop":
                state.pop(key, None)
            case "name":
                state.pop(key, None)
                part = data.draw(st.sampled_from(["", "x", "module." + key, key + ".9", key[:-1]]))
                state[part] = value
            case "swap":
                state[key], state[other] = state.get(other, value), value
            case "shape" if isinstance(value, torch.Tensor):
                shape = data.draw(st.lists(st.integers(0, 9), max_size=5))
                state[key] = torch.zeros(shape)
            case "fill" if isinstance(value, torch.Tensor):
                state[key] = torch.full(value.shape, data.draw(st.floats(width=32)))
            case "type" if isinstance(value, torch.Tensor):
                kinds = [torch.int64, torch.bool, torch.complex64, torch.float16, torch.float64]
                state[key] = value.to(data.draw(st.sampled_from(kinds)))
            case "many":
                state = {f"{data.draw(st.text(max_size=4))}{k}": v for k, v in state.items()}
    overrides = {"img_resolution": 8, **sample.overrides}
    clear_or_whole(state, format=data.draw(st.sampled_from(["auto", name])), **overrides)


def damage_header(name: str, data: Data) -> None:
    """The JSON that describes a model, with a checksum that fits."""
    sample = original(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.safetensors"
        with safe_open(sample.path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            header = json.loads(file.metadata()["ctm_fast"])
        del header["sha256"]
        header = replaced(header, data)
        if isinstance(header, dict):
            header["sha256"] = checksum(tensors, header)
        save_file(tensors, path, metadata={"ctm_fast": json.dumps(header)})
        clear_or_whole(path)


def damage_arguments(name: str, data: Data) -> None:
    """The constructor arguments in a pickle."""
    names = ("img_resolution", "model_channels", "channel_mult", "num_blocks", "attn_resolutions")
    kwargs = {key: getattr(SONG, key) for key in names} | {"in_channels": 1, "out_channels": 1}
    kwargs = json.loads(json.dumps(kwargs))
    wrapper = data.draw(st.sampled_from(["EDMPrecond", "VPPrecond", "iDDPMPrecond", "ECMPrecond"]))
    changed = replaced(kwargs, data)
    content = edm_pickle(original(name).net, changed if isinstance(changed, dict) else {}, wrapper)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.pkl").write_bytes(content)
        clear_or_whole(Path(folder) / "a.pkl")


def damage_folder(name: str, data: Data) -> None:
    """The JSON files of a folder."""
    sample = original(name)
    path = data.draw(st.sampled_from(sorted(sample.path.rglob("*.json"))))
    content = path.read_text()
    try:
        path.write_text(json.dumps(replaced(json.loads(content), data)))
        clear_or_whole(sample.path)
    finally:
        path.write_text(content)


def odd_overrides(name: str, data: Data) -> None:
    """What a user says about the model."""
    sample = original(name)
    key = data.draw(st.sampled_from(allowed_overrides()))
    plain = st.integers(-1, 70) | st.lists(st.integers(0, 9), max_size=3) | st.floats(0, 90)
    value = data.draw(plain | VALUES)
    clear_or_whole(sample.path, **{**sample.overrides, key: value})


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", list(FORMATS))
def test_bytes(name, depth):
    fuzzed(damage_file, name, depth)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", list(LAYOUTS))
def test_state_dicts(name, depth):
    fuzzed(damage_state, name, depth)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", list(FORMATS))
def test_overrides(name, depth):
    fuzzed(odd_overrides, name, depth)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(
    ("body", "name"),
    [(damage_header, "native"), (damage_arguments, "edm"), (damage_folder, "diffusers")],
)
def test_descriptions(body, name, depth):
    fuzzed(body, name, depth)


@pytest.mark.parametrize("name", list(FORMATS))
def test_undamaged_models_are_whole(name):
    sample = original(name)
    assert clear_or_whole(sample.path, **sample.overrides), "the other tests would prove nothing"


@pytest.mark.parametrize("depth", [300, 900, 5_000, 200_000])
def test_nested_without_end(depth, tmp_path):
    nested = "[" * depth + "]" * depth
    native = make("native", tmp_path)
    with safe_open(native.path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        text = file.metadata()["ctm_fast"]
    for key in ("provenance", "net", "precond", "kind", "format"):
        header = {**json.loads(text), key: "HERE"}
        changed = json.dumps(header).replace('"HERE"', nested)
        save_file(tensors, native.path, metadata={"ctm_fast": changed})
        assert not clear_or_whole(native.path)
    folder = make("diffusers", tmp_path).path
    for path in sorted(folder.rglob("*.json")):
        content = path.read_text()
        path.write_text(content[:-1] + f', "more": {nested}' + "}")
        clear_or_whole(folder)
        path.write_text(content)
    state: Any = {"a": torch.zeros(1)}
    for _ in range(min(depth, 300)):
        state = {"model": state}
    torch.save(state, tmp_path / "a.pt")
    assert not clear_or_whole(tmp_path / "a.pt")

"""Network pickles: everything is read, nothing is run."""

import builtins
import io
import operator
import os
import pickle
import random
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from ctm_fast.checkpoints.files import DamagedCheckpoint
from ctm_fast.checkpoints.unpickle import allow_list, read_network
from ctm_fast.models import SongConfig
from ctm_fast.models.key_layouts import to_published
from tests.checkpoints import edm_files
from tests.models.tiny import randomised

CONFIG = SongConfig(
    img_resolution=4,
    img_channels=1,
    label_dim=2,
    model_channels=8,
    channel_mult=(1, 1),
    num_blocks=1,
    attn_resolutions=(2,),
)
STATE = to_published(randomised(CONFIG).float().state_dict(), CONFIG, "edm")


def network(**attributes):
    return edm_files.network(CONFIG, STATE, **attributes)


def read(data, **options):
    return read_network(io.BytesIO(data), **options)


def test_all_tensors_arguments_and_attributes():
    outside = network(sigma_min=0.25, use_fp16=True)
    found = read(edm_files.pickled(outside))
    assert list(found.state) == list(outside.state_dict()) and len(found.state) == len(STATE)
    for name, value in STATE.items():
        assert torch.equal(found.state[f"model.{name}"], value)
        assert not found.state[f"model.{name}"].requires_grad
    assert found.class_name == "EDMPrecond" and found.roles == ("ema",)
    assert found.kwargs == {"model_type": "SongUNet", "img_resolution": 4, "img_channels": 1}
    assert found.attributes["sigma_min"] == 0.25 and found.attributes["use_fp16"] is True
    model = found.children["model"]
    assert model.class_name == "SongUNet" and model.args == ()
    assert model.kwargs["attn_resolutions"] == [2] and model.kwargs["label_dim"] == 2
    assert model.attributes["skip_scale"] == 0.5**0.5, "a NumPy number"
    assert set(found.children) == {"model"} and model.children == {}


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_every_protocol(protocol):
    found = read(edm_files.pickled(network(), protocol=protocol))
    assert all(torch.equal(found.state[f"model.{k}"], v) for k, v in STATE.items())


def test_the_source_text_is_neither_run_nor_kept():
    data = edm_files.pickled(network())
    assert edm_files.SOURCE.encode() in data
    found = read(data)
    assert edm_files.SOURCE not in repr(found)
    assert not {"torch_utils", "torch_utils.persistence", "dnnlib"} & set(sys.modules)


def test_a_network_alone_and_other_spellings():
    with edm_files.stand_ins():
        alone = pickle.dumps(network())
    assert len(read(alone).state) == len(STATE) and read(alone).roles == ()
    data = edm_files.pickled(network())
    older = data.replace(b"\x8c\x0bdnnlib.util", b"\x8c\x06dnnlib")
    older = older.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    assert older != data
    # Frames no longer fit their contents, which only tells how much to buffer.
    assert read(older).children["model"].attributes["skip_scale"] == 0.5**0.5


def test_shared_and_half_precision_tensors():
    shared = torch.arange(12.0).half()
    tree = edm_files.tree("Net", {"a.weight": shared[:6].reshape(2, 3), "b.weight": shared[6:]})
    tree.a.register_buffer("dropped", torch.ones(3), persistent=False)
    tree.register_buffer("strided", torch.arange(6.0).reshape(2, 3).t())
    with edm_files.stand_ins():
        found = read(pickle.dumps(tree))
    assert set(found.state) == {"a.weight", "b.weight", "strided"}
    assert torch.equal(found.state["a.weight"], shared[:6].reshape(2, 3))
    assert torch.equal(found.state["b.weight"], shared[6:])
    assert torch.equal(found.state["strided"], torch.arange(6.0).reshape(2, 3).t())


def test_what_is_allowed():
    """Nothing is added to this list without thought."""
    dtypes = ("float32", "float64", "float16", "bfloat16", "uint8")
    dtypes += ("int8", "int16", "int32", "int64")
    arrays = ("multiarray.scalar", "multiarray._reconstruct", "numeric._frombuffer")
    assert set(allow_list()) == {
        "torch_utils.persistence._reconstruct_persistent_obj",
        "dnnlib.util.EasyDict",
        "dnnlib.EasyDict",
        "collections.OrderedDict",
        *(
            f"{module}.{name}"
            for module in ("builtins", "__builtin__")
            for name in ("set", "getattr")
        ),
        *(f"torch.nn.modules.container.{n}" for n in ("ModuleDict", "ModuleList", "Sequential")),
        *("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"),
        *("torch.storage._load_from_bytes", "torch.Size", "torch.device"),
        *(f"torch.{dtype}" for dtype in dtypes),
        *("numpy.dtype", "numpy.ndarray"),
        *(f"numpy.{core}.{name}" for core in ("core", "_core") for name in arrays),
    }


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *args, state=None):
        self.call = (function, args, state) if state is not None else (function, args)

    def __reduce__(self):
        return self.call


MARK = "CTM_FAST_TEST_WAS_RUN"
HOSTILE = {
    "system": lambda: Calls(os.system, f"touch {MARK}"),
    "subprocess.Popen": lambda: Calls(subprocess.Popen, ["touch", MARK]),
    "builtins.eval": lambda: Calls(eval, f"open({MARK!r}, 'w')"),
    "builtins.exec": lambda: Calls(exec, f"open({MARK!r}, 'w')"),
    "builtins.__import__": lambda: Calls(builtins.__import__, "os"),
    "open": lambda: Calls(open, MARK, "w"),
    "attrgetter": lambda: Calls(operator.attrgetter, "system"),
    "torch.serialization.load": lambda: Calls(torch.load, MARK),
    "torch.jit._serialization.load": lambda: Calls(torch.jit.load, MARK),
    "torch.nn.modules.linear.Linear": lambda: nn.Linear(1, 1),
    "numpy": lambda: Calls(np.load, MARK),
    "asks for attribute 'system' of a str": lambda: Calls(getattr, "os", "system"),
    "attribute '__class__' of a Stub": lambda: Calls(getattr, network(), "__class__"),
    "calls a Method": lambda: Calls(Called(network()), "x"),
}


class Called:
    """Pickles as a method of an object; calling it is then a call of a method."""

    def __init__(self, target):
        self.target = target

    def __call__(self):
        raise AssertionError

    def __reduce__(self):
        return getattr, (self.target, "forward")


@pytest.mark.parametrize("where", ["entry", "attribute", "argument", "tensor"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles(name, where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outside, payload, entries = network(), HOSTILE[name](), {}
    if where == "entry":
        entries["optimizer"] = payload
    elif where == "attribute":
        outside.__dict__["sigma_min"] = payload
    elif where == "argument":
        outside.model._init_kwargs["dropout"] = payload
    else:
        outside.model._buffers["extra"] = payload
    with pytest.raises(ValueError, match=re.escape(name)):
        read(edm_files.pickled(outside, **entries))
    assert not list(tmp_path.iterdir()), "something was run"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_hostile_pickles_of_every_protocol(protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for payload in (HOSTILE["system"](), {"ema": HOSTILE["builtins.eval"]()}):
        with pytest.raises(ValueError, match=r"asks for '\w+\.(system|eval)'"):
            read(pickle.dumps(payload, protocol))
    with pytest.raises(DamagedCheckpoint, match="not a pickle of protocol 2 to 5"):
        read(pickle.dumps(HOSTILE["system"](), 0))
    assert not list(tmp_path.iterdir()), "something was run"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, not the dictionary with 'ema'"),
        ({"net": 3}, r"no network 'ema'; its networks are \[\] \(entries: net\)"),
        ({"ema": {"model.weight": torch.ones(3)}}, r"no network 'ema'"),
        ({}, r"entries: nothing"),
        (None, "holds a NoneType"),
    ],
)
def test_pickles_of_something_else(content, message):
    with pytest.raises(ValueError, match=message):
        read(pickle.dumps(content))


def stub(**state):
    outside = edm_files.Persistent("Net")
    outside.__dict__.update(state)
    with edm_files.stand_ins():
        return pickle.dumps(outside)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"_modules": {"model": 3}}, "module 'model' is a int, not a module"),
        ({"_modules": [3]}, "no dictionary of names"),
        ({"_modules": {3: None}}, "no dictionary of names"),
        ({"_parameters": {"weight": 3.5}}, "weight is a float, not a tensor"),
        ({"_buffers": {"weight": [torch.ones(2)]}}, "weight is a list, not a tensor"),
    ],
)
def test_modules_of_something_else(state, message):
    with pytest.raises(ValueError, match=message):
        read(stub(**state))


def test_modules_in_themselves_and_in_each_other_too_often():
    inside = edm_files.Persistent("Part")
    for _ in range(40):
        outside = edm_files.Persistent("Part")
        outside.__dict__["_modules"] = {"a": inside, "b": inside}
        inside = outside
    with edm_files.stand_ins():
        data = pickle.dumps(inside)
    with pytest.raises(ValueError, match="too many modules inside modules"):
        read(data)


def test_long_arguments_are_not_walked():
    deep = [0] * 60
    for _ in range(30):
        deep = [deep] * 60
    found = read(stub(_init_args=(deep,), _init_kwargs={"a": list(range(100)), "b": {"c": [1]}}))
    assert found.args[0][0][0] == "<list>" and found.kwargs == {"a": "<list>", "b": {"c": [1]}}


def test_truncations():
    data = edm_files.pickled(network())
    for length in [*range(0, len(data), 2999), len(data) - 1]:
        with pytest.raises(DamagedCheckpoint):
            read(data[:length])


def test_altered_bytes():
    """What is still readable has the right tensors or others; nothing else happens."""
    data, generator = edm_files.pickled(network()), random.Random(0)
    outcomes = set()
    for _ in range(80):
        altered = bytearray(data)
        for _ in range(generator.choice([1, 3, 10])):
            altered[generator.randrange(len(data))] = generator.randrange(256)
        try:
            read(bytes(altered))
            outcomes.add("read")
        except ValueError as error:
            outcomes.add(type(error).__name__)
    assert outcomes == {"read", "ValueError", "DamagedCheckpoint"}

"""TensorBoard's events: what is written, nothing twice after a resume, refusals."""

import json
import sys

import pytest
from PIL import Image

from ctm_fast.trainer.tensorboard import Board
from tests.trainer import tiny


def events(folder):
    """Everything that TensorBoard would show of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return found


def scalars(folder):
    found = events(folder)
    return {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def test_every_number_of_a_line_and_the_configuration(tmp_path):
    tiny.trainer(out=tmp_path, steps=4, tensorboard=True).fit()
    shown = scalars(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    for tag, read in {
        "loss/ctm": lambda line: line["loss"]["ctm"],
        "weight/dsm": lambda line: line["weight"]["dsm"],
        "grad_norm": lambda line: line["grad_norm"],
        "lr": lambda line: line["lr"],
        "images_per_s": lambda line: line["images_per_s"],
        "share/prepare": lambda line: line["share"]["prepare"],
        "ema_drift/0": lambda line: line["ema_drift"][0],
        "peak_memory_mib": lambda line: line["peak_memory_mib"],
    }.items():
        assert shown[tag] == [(line["step"], pytest.approx(read(line))) for line in lines], tag
    assert "step" not in shown and "images" not in shown
    found = events(tmp_path)
    (text,) = found.Tensors("config/text_summary")
    assert b'"batch_size": 8' in text.tensor_proto.string_val[0]
    assert found.Tensors("no_power/text_summary")


def test_no_step_is_shown_twice_after_a_resume(tmp_path):
    options = dict(out=tmp_path, steps=6, log_every=1, tensorboard=True)
    run = tiny.trainer(**options, checkpoint_every=2)
    run.save, kept = lambda: None, run.save  # killed after step 4, having saved step 2
    run.fit(2)
    kept()
    run.fit(4)
    assert [step for step, _ in scalars(tmp_path)["lr"]] == [1, 2, 3, 4]
    again = tiny.trainer(**options)
    assert again.step == 2
    again.fit()
    shown = scalars(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    expected = [(line["step"], pytest.approx(line["loss"]["ctm"])) for line in lines]
    assert shown["loss/ctm"] == expected


def test_pictures_lie_on_white(tmp_path):
    Image.new("RGBA", (4, 2), (255, 0, 0, 0)).save(tmp_path / "a.png")
    board = Board(tmp_path / "tensorboard")
    board.picture("preview/nfe1", tmp_path / "a.png", 3)
    board.close()
    (shown,) = events(tmp_path).Images("preview/nfe1")
    assert (shown.step, shown.width, shown.height) == (3, 4, 2)
    (tmp_path / "shown.png").write_bytes(shown.encoded_image_string)
    assert Image.open(tmp_path / "shown.png").convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_callbacks_find_the_board_during_a_fit_only(tmp_path):
    seen = []
    run = tiny.trainer(
        out=tmp_path, steps=1, tensorboard=True, callbacks=[lambda t, step: seen.append(t.board)]
    )
    assert run.board is None
    run.fit()
    assert isinstance(seen[0], Board) and run.board is None
    plain = tiny.trainer(steps=1, callbacks=[lambda t, step: seen.append(t.board)])
    plain.fit()
    assert seen[1] is None


def test_refusals(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="out=FOLDER"):
        tiny.trainer(tensorboard=True)
    with pytest.raises(ValueError, match="tensorboard must be true or false, got 'yes'"):
        tiny.trainer(tensorboard="yes")
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ValueError, match=r'pip install "ctm_fast\[log\]"'):
        tiny.trainer(out=tmp_path, tensorboard=True)
    tiny.trainer(out=tmp_path, steps=1).fit()

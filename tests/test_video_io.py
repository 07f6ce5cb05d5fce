"""Videos written and read back: pictures, times, orientation, and what damage does."""

import struct
import sys
from fractions import Fraction

import numpy as np
import pytest

from densevit.errors import UserError
from densevit.video_io import VideoReader, VideoWriter, is_video

RATE = Fraction(30000, 1001)


@pytest.fixture(scope="module")
def av():
    return pytest.importorskip("av", reason="videos need PyAV: pip install 'densevit[video]'")


def moving_bar(num_frames, *, size=(51, 77)):
    """A green bar that moves over red, one pixel a frame."""
    for i in range(num_frames):
        frame = np.full((*size, 3), (200, 40, 80), dtype=np.uint8)
        frame[:, i : i + 10] = (20, 240, 30)
        yield frame


def write(path, frames, *, rate=RATE):
    with VideoWriter(path, rate=rate) as video:
        for number, frame in enumerate(frames):
            video.write(frame, time=number / rate)
    return path


def read(path, **options):
    with VideoReader(path, **options) as video:
        return list(video), video


@pytest.fixture
def video(av, tmp_path):
    return write(tmp_path / "ride é 1.mp4", moving_bar(30))


def test_round_trip(video):
    frames, reader = read(video)
    assert reader.rate == RATE
    assert reader.num_frames == len(frames) == 30
    assert reader.problem() is None
    assert frames[0].pixels.shape == (52, 78, 3)  # sides are even in this format
    for number, (frame, expected) in enumerate(zip(frames, moving_bar(30), strict=True)):
        assert abs(frame.time - number / RATE) < Fraction(1, 50_000)
        # colours are stored at half resolution, so edges are left out: the middle of the bar and the far right
        assert np.abs(frame.pixels[25, number + 5].astype(int) - expected[25, number + 5]).max() < 8
        assert np.abs(frame.pixels[25, 70].astype(int) - expected[25, 70]).max() < 8
    assert [path.name for path in video.parent.iterdir()] == [video.name]  # no .part is left


def test_uneven_times_are_kept(av, tmp_path):
    times = [Fraction(0), Fraction(1, 10), Fraction(1, 2), Fraction(3, 2)]
    with VideoWriter(tmp_path / "a.mp4", rate=Fraction(10)) as video:
        for time, frame in zip(times, moving_bar(4), strict=True):
            video.write(frame, time=time)
    assert [frame.time for frame in read(tmp_path / "a.mp4")[0]] == times


def test_grey(video):
    frames, _ = read(video, channels=1)
    assert frames[0].pixels.shape == (52, 78)
    with pytest.raises(UserError, match="video of 3 channels, but the model takes 6"):
        read(video, channels=6)


def test_a_phone_held_upright(video):
    """The matrix in an MP4's track header (ISO 14496-12) that turns pictures clockwise by a quarter."""
    data, one = video.read_bytes(), 1 << 16
    upright = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, one, 0, -one, 0, 0, 52 * one, 0, 1 << 30)
    place = data.index(upright, data.index(b"tkhd"))
    video.write_bytes(data[:place] + turned + data[place + len(turned) :])
    pixels = read(video)[0][0].pixels
    assert pixels.shape == (78, 52, 3)
    assert pixels[5, 25, 1] > 200  # the green bar, left before, is above now
    assert pixels[70, 25, 1] < 80


def test_damage_is_told_and_the_rest_read(video):
    data = video.read_bytes()
    video.write_bytes(data[: int(0.95 * len(data))])
    frames, reader = read(video)
    assert 0 < len(frames) < 28
    assert f"has {len(frames)} of the 30 frames" in reader.problem()
    place = data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2
    video.write_bytes(data[:place] + bytes(100) + data[place + 100 :])
    frames, reader = read(video)
    assert len(frames) < 30
    assert "packets could not be decoded and were left out" in reader.problem()


@pytest.mark.parametrize("content", [b"", b"hello" * 100, bytes(5000)])
def test_no_video(av, tmp_path, content):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read video .*a\.mp4") as caught:
        read(tmp_path / "a.mp4")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="does not exist"):
        read(tmp_path / "b.mp4")


def test_sound_alone_is_no_video(av, tmp_path):
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(UserError, match="holds no video stream"):
        read(path)


def test_nothing_is_left_of_a_video_that_was_not_finished(av, tmp_path):
    def stop_half_way():
        with VideoWriter(tmp_path / "a.mp4", rate=RATE) as video:
            video.write(next(moving_bar(1)), time=Fraction(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_half_way()
    with VideoWriter(tmp_path / "a.mp4", rate=RATE):
        pass  # no frame came
    assert not list(tmp_path.iterdir())


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"needs the package av: pip install 'densevit\[video\]'"):
        read(tmp_path / "a.mp4")


def test_names():
    from pathlib import Path

    assert is_video(Path("a b.MP4"))
    assert is_video(Path("é.mov"))
    assert not is_video(Path("a.png"))
    assert not is_video(Path("mp4"))

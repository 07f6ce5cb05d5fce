"""A video through a predictor: every frame in its place, labels of skipped frames kept, memory steady."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from densevit.errors import UserError
from densevit.predict_video import predict_video
from densevit.predictor import SegmentationResult

pytest.importorskip("av", reason="videos need PyAV: pip install 'densevit[video]'")

from densevit.video_io import VideoReader, VideoWriter

PALETTE = ((0, 0, 0), (250, 250, 250))


class BrightPredictor:
    """Class 1 where a picture is bright; remembers the brightest pixel of each frame it saw."""

    def __init__(self, channels=3):
        self.model = SimpleNamespace(in_channels=channels)
        self.seen = []

    def __call__(self, pixels, *, probabilities, confidence):
        assert not probabilities
        assert not confidence
        self.seen.append(int(pixels.max()))
        bright = pixels if pixels.ndim == 2 else pixels.mean(axis=2)
        return SegmentationResult(
            labels=(bright > 100).astype(np.int64),
            probabilities=None,
            confidence=None,
            classes=("dark", "bright"),
            palette=PALETTE,
            image=pixels if pixels.ndim == 3 else pixels[..., None].repeat(3, axis=2),
        )


@pytest.fixture
def source(tmp_path):
    """Twelve frames, dark on the left; on the right dark and bright by turns of three."""
    path = tmp_path / "in.mp4"
    with VideoWriter(path, rate=Fraction(5)) as video:
        for number in range(12):
            frame = np.full((32, 48, 3), 20, dtype=np.uint8)
            frame[:, 24:] = 20 if number // 3 % 2 else 180
            video.write(frame, time=Fraction(number, 5))
    return path


def read(path):
    with VideoReader(path) as video:
        return list(video), video.rate


@pytest.mark.parametrize(("channels", "tolerance"), [(3, 6), (1, 6)])
def test_each_frame(source, tmp_path, channels, tolerance):
    done = []
    target = tmp_path / "new" / "out.mp4"
    predictor = BrightPredictor(channels)
    assert predict_video(predictor, source, target, alpha=1.0, on_frame=lambda *args: done.append(args)) is None
    frames, rate = read(target)
    assert rate == 5
    assert [frame.time for frame in frames] == [Fraction(n, 5) for n in range(12)]
    for number, frame in enumerate(frames):
        expected = 0 if number // 3 % 2 else 250
        assert abs(int(frame.pixels[16, 40, 0]) - expected) <= tolerance
        assert frame.pixels[16, 8].max() <= tolerance
    assert done == [(source, n + 1, 12) for n in range(12)]


def test_labels_stay_between_every_nth_frame(source, tmp_path):
    predictor = BrightPredictor()
    predict_video(predictor, source, tmp_path / "out.mp4", every=5, alpha=1.0)
    assert len(predictor.seen) == 3  # frames 0, 5 and 10
    right = [int(frame.pixels[16, 40, 0]) > 100 for frame in read(tmp_path / "out.mp4")[0]]
    assert right == [True] * 5 + [False] * 5 + [False] * 2


def test_frames_are_not_collected(source, tmp_path, monkeypatch):
    """Each frame is written before the next is read."""
    events = []
    read_frame, write_frame = VideoReader.__iter__, VideoWriter.write

    def reading(self):
        for frame in read_frame(self):
            events.append("read")
            yield frame

    def writing(self, pixels, *, time):
        events.append("write")
        write_frame(self, pixels, time=time)

    monkeypatch.setattr(VideoReader, "__iter__", reading)
    monkeypatch.setattr(VideoWriter, "write", writing)
    predict_video(BrightPredictor(), source, tmp_path / "out.mp4")
    assert events == ["read", "write"] * 12


def test_mistakes(source, tmp_path):
    with pytest.raises(UserError, match="every is 0"):
        predict_video(BrightPredictor(), source, tmp_path / "out.mp4", every=0)
    with pytest.raises(UserError, match="model takes 6"):
        predict_video(BrightPredictor(6), source, tmp_path / "out.mp4")
    with pytest.raises(UserError, match="cannot read video"):
        predict_video(BrightPredictor(), write_text(tmp_path / "text.mp4"), tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def write_text(path):
    path.write_text("no video")
    return path

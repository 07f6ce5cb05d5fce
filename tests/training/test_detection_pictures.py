"""Truth beside prediction: what is drawn where, and when."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from densevit.data.detection_transforms import DetectionEvalTransform
from densevit.training.config import TrainConfig
from densevit.training.config_detection import DetectionExperiment
from densevit.training.config_detection_data import DetectionDataConfig
from densevit.training.detection import DetectionTask
from densevit.training.detection_pictures import CELL_WIDTH, DetectionPictures, detection_pictures


@pytest.fixture
def task(colour_detector):
    model, info = colour_detector()
    data = DetectionDataConfig(mean=info.mean, std=info.std)
    experiment = DetectionExperiment(data=data)
    return DetectionTask(experiment, model, classes=info.classes, palette=info.palette, category_ids=info.category_ids)


@pytest.fixture
def samples(colour_picture):
    prepare = DetectionEvalTransform(short_side=120, long_side=400, mean=(0.0,) * 3, std=(255.0,) * 3)
    masks = torch.zeros(2, 60, 90, dtype=torch.bool)
    masks[0, 10:40, 20:50] = masks[1, 45:55, 60:80] = True
    stored = {
        "image": tv_tensors.Image(torch.tensor(colour_picture).permute(2, 0, 1)),
        "boxes": torch.tensor([[20.0, 10.0, 50.0, 40.0], [60.0, 45.0, 80.0, 55.0]]),
        "labels": torch.tensor([0, 2]),
        "masks": masks,
        "iscrowd": torch.tensor([False, True]),
        "area": torch.tensor([900.0, 200.0]),
    }
    return [prepare(stored | {"image_id": n, "id": f"street {n}"}) for n in range(5)]


def test_truth_beside_prediction(task, samples):
    strip = DetectionPictures(None, num_pictures=2).draw(task.eval(), samples)
    assert strip.shape[1] == 2 * CELL_WIDTH + 3 * 8
    cell_height = CELL_WIDTH * 60 // 90
    assert strip.shape[0] > 2 * cell_height
    row = strip[34 + 20 : 34 + 20 + cell_height]
    for left in (8, 16 + CELL_WIDTH):  # the red mask, half its own colour and half the palette's
        middle = row[cell_height * 25 // 60, left + CELL_WIDTH * 35 // 90]
        np.testing.assert_allclose(middle, [215, 5, 5], atol=3)


def test_a_crowd_of_true_objects_is_not_drawn_to_the_last(task, samples, monkeypatch):
    truth = {name: values.repeat_interleave(500, dim=0) for name, values in samples[0]["truth"].items()}
    drawn = []
    monkeypatch.setattr(
        "densevit.training.detection_pictures.draw_objects",
        lambda picture, *, boxes, **_: (drawn.append(len(boxes)), picture)[1],
    )
    DetectionPictures(None, num_pictures=1).draw(task.eval(), [samples[0] | {"truth": truth}])
    assert drawn[0] == 100


def test_a_picture_for_each_validation(task, samples, tmp_path):
    (callback,) = detection_pictures(TrainConfig(num_sample_pictures=1), tmp_path)
    trainer = SimpleNamespace(
        sanity_checking=False,
        is_global_zero=True,
        global_step=7,
        loggers=[],
        datamodule=SimpleNamespace(val_set=samples),
        precision_plugin=SimpleNamespace(forward_context=torch.no_grad),
    )
    callback.on_validation_epoch_end(trainer, task.eval())
    assert Image.open(tmp_path / "pictures" / "step_000007.png").width == 2 * CELL_WIDTH + 24
    (nothing,) = detection_pictures(TrainConfig(num_sample_pictures=0), tmp_path / "b")
    nothing.on_validation_epoch_end(trainer, task)
    assert not (tmp_path / "b").exists()


def test_nothing_found_yet(task, samples):
    samples[0]["image"][:] = 0
    assert DetectionPictures(None, num_pictures=1).draw(task.eval(), samples).ndim == 3

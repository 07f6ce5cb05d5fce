"""Sample predictions as pictures at every validation: into the run folder and TensorBoard."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from densevit.training.segmentation import SegmentationTask
from densevit.visualize.strip import prediction_strip


class SamplePictures(L.Callback):
    """Draws image | truth | prediction for `num_pictures` validation images, evenly spread over the split."""

    def __init__(self, folder: Path, *, num_pictures: int):
        self.folder = folder
        self.num_pictures = num_pictures

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or self.num_pictures < 1 or not trainer.is_global_zero:
            return
        with trainer.precision_plugin.forward_context():
            strip = self.draw(pl_module, trainer.datamodule.val_set)  # type: ignore[attr-defined]
        step = trainer.global_step
        self.folder.mkdir(exist_ok=True)
        Image.fromarray(strip).save(self.folder / f"step_{step:06d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("val/predictions", strip, step, dataformats="HWC")

    def samples(self, dataset: Any) -> list[dict[str, Any]]:
        """The samples that are drawn, the same ones every time."""
        chosen = np.linspace(0, len(dataset) - 1, min(self.num_pictures, len(dataset))).round().astype(int)
        return [dataset[int(i)] for i in chosen]

    def draw(self, task: L.LightningModule, dataset: Any) -> NDArray[np.uint8]:
        """The strip of pictures, (H, W, 3)."""
        assert isinstance(task, SegmentationTask)
        samples = self.samples(dataset)
        predictions = []
        for sample in samples:
            batch = {"image": sample["image"][None].to(task.device), "mask": sample["mask"][None]}
            predictions.append(task.segment(batch)[0].cpu().numpy())
        data = task.experiment.data
        return prediction_strip(
            [denormalise(sample["image"], mean=data.mean, std=data.std) for sample in samples],
            [np.asarray(sample["mask"]) for sample in samples],
            predictions,
            classes=task.classes,
            palette=task.palette,
            captions=[sample["id"] for sample in samples],
        )


def denormalise(image: Tensor, *, mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.uint8]:
    """A normalised (C, H, W) image as an (H, W, 3) uint8 picture; of other than 3 channels the first, in grey."""
    pixels = image.float() * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    picture = pixels.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return picture if picture.shape[-1] == 3 else np.repeat(picture[..., :1], 3, axis=-1)

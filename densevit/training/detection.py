"""Detection of boxes, or of boxes and masks, as a task: the detector's own losses, COCO's scores."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from densevit.errors import UserError
from densevit.evaluation.coco import CocoMetric
from densevit.evaluation.coco_scores import DetectionScores
from densevit.models.detector import Detections, Detector
from densevit.training.config_detection import DetectionExperiment
from densevit.training.detection_data import DetectionData
from densevit.training.settings import experiment_to_dict
from densevit.training.task import Batch, Task
from densevit.weights.pretrained import ModelInfo


class DetectionTask(Task):
    """Trains a `Detector`; masks are learned and scored where the model has them."""

    monitor: ClassVar[str] = "val/AP"
    scores_type: ClassVar[type[DetectionScores]] = DetectionScores

    def __init__(
        self,
        experiment: DetectionExperiment,
        model: Detector,
        *,
        classes: tuple[str, ...],
        palette: tuple[tuple[int, int, int], ...],
        category_ids: tuple[int, ...],
    ):
        """`category_ids` are the classes' ids in the data set's json."""
        model.set_thresholds(**experiment.eval.thresholds)
        super().__init__(experiment, model, classes=classes)
        if experiment.train.compile:  # the heads handle another number of boxes each time
            model.encoder.compile()
            model.fpn.compile()
        self.palette, self.category_ids = palette, category_ids
        self.val_scores = CocoMetric(classes, category_ids=category_ids, with_masks=model.with_masks)

    @classmethod
    def for_data(
        cls, experiment: DetectionExperiment, model: nn.Module, data: DetectionData, *, training: bool
    ) -> "DetectionTask":
        assert isinstance(model, Detector)
        if model.with_masks and not data.has_masks:
            raise UserError(
                f"{model.config['name']} learns masks, but data set {experiment.data.name!r} gives none; "  # type: ignore[index]
                "set data.args.masks=true, or take a retinanet_ model for boxes alone"
            )
        return cls(experiment, model, classes=data.classes, palette=data.palette, category_ids=data.category_ids)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Named loss terms: "loss" is the sum of the others, which depend on the detector."""
        parts: dict[str, Tensor] = self.model(batch["image"], batch["target"])
        return {"loss": torch.stack([*parts.values()]).sum()} | parts

    def probe(self, batch: Batch) -> None:
        with torch.compiler.set_stance("force_eager"):
            self.model(batch["image"], batch["target"])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.val_scores.update(self.detect(batch), batch["truth"], batch["image_id"], batch["size"])

    def detect(self, batch: Batch) -> list[Detections]:
        """Objects of each image, in pixels of the stored image."""
        found: list[Detections] = self.used_model(batch["image"], sizes=batch["size"])
        return found

    def pop_scores(self) -> DetectionScores:
        scores: DetectionScores = self.val_scores.compute()
        self.val_scores.reset()
        if not sum(scores.support) and not self.in_sanity_check:
            raise UserError("the validation split has no object; see `densevit data check`")
        return scores

    def logged_scores(self, scores: DetectionScores) -> dict[str, float]:
        parts = {"box": scores.box} | ({} if scores.mask is None else {"mask": scores.mask})
        summaries = {kind: part.summary() for kind, part in parts.items()}
        return {f"val/{kind}_{name}": summaries[kind][name] for kind in parts for name in ("ap", "ap50", "ap75")}

    def info(self) -> ModelInfo:
        config, scores = self.experiment, self.last_scores
        metrics = {} if scores is None else {"box_AP": scores.box.ap, "box_AP50": scores.box.summary()["ap50"]}
        if scores is not None and scores.mask is not None:
            metrics |= {"mask_AP": scores.mask.ap, "mask_AP50": scores.mask.summary()["ap50"]}
        return ModelInfo(
            task="detection",
            model=dict(self.model.config),  # type: ignore[arg-type]
            classes=self.classes,
            palette=self.palette,
            category_ids=self.category_ids,
            mean=config.data.mean,
            std=config.data.std,
            inference=experiment_to_dict(config)["eval"],
            metrics=metrics,
            training=experiment_to_dict(config),
        )

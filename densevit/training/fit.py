"""Train a segmenter: build the parts, run Lightning's loop, leave a run folder.

    runs/NAME/
      config.yaml          the resolved experiment; `densevit fit --config` reads it back
      metrics.csv          losses, learning rate, validation scores by step (also in tensorboard/)
      curves.png           the same as a picture
      pictures/            image | truth | prediction at every validation
      checkpoints/         best.ckpt (by mIoU), last.ckpt (to resume)
      model.safetensors    the best model with class names and palette, for `predict`, `validate`, `Predictor`
      scores.json, confusion.csv, confusion.png
"""

import json
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from densevit.errors import UserError
from densevit.evaluation.scores import SegmentationScores, write_confusion_csv
from densevit.models.catalog import create_model
from densevit.models.segmenter import Segmenter
from densevit.training.callbacks import BEST, LAST, NaNGuard, StopOnSignal
from densevit.training.config import ModelConfig, SegmentationExperiment, TrainConfig
from densevit.training.data import SegmentationData
from densevit.training.metrics_csv import MetricsCSV
from densevit.training.pictures import SamplePictures
from densevit.training.progress import StepProgress
from densevit.training.segmentation import SegmentationTask
from densevit.training.settings import save_experiment
from densevit.visualize.confusion import save_confusion
from densevit.visualize.curves import save_curves
from densevit.weights.pretrained import load_pretrained, save_pretrained

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
MONITOR = "val/mIoU"


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What a finished training leaves."""

    run_dir: Path
    model_file: Path
    scores: SegmentationScores
    best_step: int


def fit(experiment: SegmentationExperiment, run_dir: str | Path, *, resume: bool = False) -> FitResult:
    """Train `experiment` into `run_dir`; with `resume`, go on from its last checkpoint.

    Raises UserError for what cannot work, `Stopped` when the user interrupts (a resumable checkpoint is saved first).
    """
    run_dir = Path(run_dir)
    checkpoints = run_dir / "checkpoints"
    last = _prepare_folder(run_dir, checkpoints / LAST, resume=resume)
    train = experiment.train
    L.seed_everything(train.seed, verbose=False)
    data = SegmentationData(experiment.data, num_batches=train.num_steps * train.accumulate, seed=train.seed)
    model = build_model(experiment.model, num_classes=len(data.classes))
    task = SegmentationTask(
        experiment, model, classes=data.classes, palette=data.palette, ignore_index=data.ignore_index
    )
    resume_step = _resume_step(last) if last else 0
    if resume_step >= train.num_steps:
        raise UserError(f"{run_dir} is already at step {resume_step} of {train.num_steps}; raise train.num_steps")
    data.start_batch = resume_step * train.accumulate
    save_experiment(experiment, run_dir / "config.yaml")
    best = ModelCheckpoint(
        checkpoints, BEST.removesuffix(".ckpt"), monitor=MONITOR, mode="max", enable_version_counter=False
    )
    with warnings.catch_warnings():
        _quiet()
        trainer = _trainer(experiment, run_dir, best=best, resume_step=resume_step)
        trainer.fit(task, datamodule=data, ckpt_path=last)
        if trainer.global_step % train.val_every_steps:  # the last steps have not been scored yet
            trainer.validate(task, datamodule=data, verbose=False)
            if best.best_model_score is None or trainer.callback_metrics[MONITOR] > best.best_model_score:
                trainer.save_checkpoint(checkpoints / BEST)
    return _finish(run_dir)


def build_model(config: ModelConfig, *, num_classes: int) -> Segmenter:
    """The model of an experiment, with its pretrained encoder where one is asked for."""
    from_timm = config.pretrained is True
    model = create_model(config.name, num_classes=num_classes, **({"pretrained": True} if from_timm else {}), **config.args)
    if not isinstance(model, Segmenter):
        raise UserError(f"{config.name} is no segmentation model; see `densevit models`")
    if isinstance(config.pretrained, str):
        from densevit.weights.encoder import load_encoder

        print(load_encoder(model, config.pretrained))
    model.config.pop("pretrained", None)  # type: ignore[union-attr,operator]  # a saved model brings its own weights
    return model


def _prepare_folder(run_dir: Path, last: Path, *, resume: bool) -> Path | None:
    """Make the run folder; the checkpoint to resume from, or None."""
    if resume and not last.is_file():
        raise UserError(f"nothing to resume in {run_dir}: there is no {last.relative_to(run_dir)}")
    if not resume and (run_dir / "config.yaml").exists():
        raise UserError(f"{run_dir} already holds a run; give another --out, remove it, or continue with --resume {run_dir}")
    try:
        last.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write the run folder {run_dir}: {error.strerror}") from error
    return last if resume else None


def _resume_step(checkpoint: Path) -> int:
    try:
        return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"])
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UserError(f"{checkpoint} cannot be read ({type(error).__name__}); resume from another run") from error


def _trainer(experiment: SegmentationExperiment, run_dir: Path, *, best: ModelCheckpoint, resume_step: int) -> L.Trainer:
    train: TrainConfig = experiment.train
    checkpoints = run_dir / "checkpoints"
    callbacks: list[Any] = [
        StepProgress(num_steps=train.num_steps, batch_size=experiment.data.batch_size * train.accumulate),
        NaNGuard(train.log_every_steps),
        SamplePictures(run_dir / "pictures", num_pictures=train.num_sample_pictures),
        best,
        ModelCheckpoint(checkpoints, LAST.removesuffix(".ckpt"), monitor=None, enable_version_counter=False),
        StopOnSignal(checkpoints / LAST),
    ]
    if train.early_stopping is not None:
        callbacks.append(EarlyStopping(MONITOR, mode="max", patience=train.early_stopping))
    trainer = L.Trainer(
        accelerator=train.accelerator,
        devices=train.devices,
        precision=PRECISIONS[train.precision],  # type: ignore[arg-type]
        max_steps=train.num_steps,
        max_epochs=-1,
        val_check_interval=min(train.val_every_steps, train.num_steps) * train.accumulate,
        check_val_every_n_epoch=None,
        accumulate_grad_batches=train.accumulate,
        gradient_clip_val=experiment.optim.clip_grad_norm,
        log_every_n_steps=train.log_every_steps,
        num_sanity_val_steps=1,
        use_distributed_sampler=False,  # `StepSampler` already gives each process its share
        enable_model_summary=False,
        callbacks=callbacks,
        logger=[
            MetricsCSV(run_dir / "metrics.csv", resume_step=resume_step),
            TensorBoardLogger(run_dir, name="tensorboard", version=""),
        ],
    )
    return trainer


def _finish(run_dir: Path) -> FitResult:
    """Export the best checkpoint and write the last files of a run."""
    path = run_dir / "checkpoints" / BEST
    model, info = load_pretrained(path)
    model_file = save_pretrained(model, run_dir, info=info)
    save_curves(run_dir / "metrics.csv", run_dir / "curves.png")
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    scores = SegmentationScores.from_confusion(checkpoint["confusion"].numpy(), classes=info.classes)
    write_scores(scores, run_dir)
    return FitResult(run_dir=run_dir, model_file=model_file, scores=scores, best_step=int(checkpoint["global_step"]))


def write_scores(scores: SegmentationScores, folder: Path) -> None:
    """`scores.json`, `confusion.csv` and `confusion.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.json").write_text(json.dumps(scores.to_dict(), indent=2) + "\n", encoding="utf-8")
    write_confusion_csv(scores, folder / "confusion.csv")
    save_confusion(scores.confusion, folder / "confusion.png", classes=scores.classes)


def _quiet() -> None:
    """Hide Lightning's advice and advertisements; real trouble is raised, not warned about."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message=".*isinstance.treespec.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*mid-epoch.*")

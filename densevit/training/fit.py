"""Train a model: build the parts, run Lightning's loop, leave a run folder.

runs/NAME/
  config.yaml          the resolved experiment; `densevit fit --config` reads it back
  metrics.csv          losses, learning rate, validation scores by step (also in tensorboard/)
  curves.png           the same as a picture
  pictures/            image | truth | prediction at every validation (segmentation)
  checkpoints/         best.ckpt (by score, weights only), last.ckpt (to resume)
  model.safetensors    the best model with its class names, for `predict`, `validate`, `Predictor`
  config.json, README.md   the same to read, and a model card
  scores.json          (of classes of pixels or images: confusion.csv and confusion.png as well)
"""

import json
import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from densevit.errors import UserError
from densevit.evaluation.scores import SegmentationScores, write_confusion_csv
from densevit.evaluation.top_k import ClassificationScores
from densevit.kernels.pages import give_back
from densevit.models.catalog import create_model, model_kind, takes_argument
from densevit.training.callbacks import StopOnSignal
from densevit.training.checkpoints import BEST, LAST, AtomicCheckpointIO, SaveCheckpoints, ValidateAtEnd, read_position
from densevit.training.config import ModelConfig, TrainConfig
from densevit.training.metrics_csv import MetricsCSV
from densevit.training.nan_guard import NaNGuard
from densevit.training.progress import StepProgress
from densevit.training.settings import Experiment, check_same_run, save_experiment
from densevit.training.task import Scores, read_scores
from densevit.training.tasks import TASKS
from densevit.visualize.confusion import save_confusion
from densevit.visualize.curves import save_curves
from densevit.weights.pretrained import HEADER_KEY, MODEL_FILE, ModelInfo, load_pretrained, save_pretrained

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
CHECKPOINTS = "checkpoints"
LARGEST_PICTURE = 300
"""Classes of the largest confusion matrix that is drawn."""


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What a finished training leaves."""

    run_dir: Path
    model_file: Path
    scores: Scores
    best_step: int


def fit(experiment: Experiment, run_dir: str | Path, *, resume: bool = False) -> FitResult:
    """Train `experiment` into `run_dir`; with `resume`, go on from its last checkpoint.

    Raises UserError for what cannot work, `Stopped` when the user interrupts (a resumable checkpoint is saved first),
    KeyboardInterrupt where there is nothing to save yet or at a second interrupt.
    """
    run_dir = Path(run_dir)
    train = experiment.train
    last = _check_folder(run_dir, resume=resume)
    if last and (run_dir / "config.yaml").is_file():
        check_same_run(experiment, run_dir / "config.yaml")
    done, pending = read_position(last) if last else (0, False)
    if done > train.num_steps:
        raise UserError(f"{run_dir} is already at step {done} of {train.num_steps}; raise train.num_steps")
    if done == train.num_steps and not pending:  # only the last files may be missing
        return _finish(run_dir)
    L.seed_everything(train.seed, verbose=False)
    kind = TASKS[experiment.task]
    data = kind.data(experiment, num_batches=train.num_steps * train.accumulate, seed=train.seed)
    data.start_batch = done * train.accumulate
    _ = data.train_set  # made here, so that bad data leaves no run behind
    classes = data.classes
    model = build_model(experiment.model, num_classes=len(classes), task=experiment.task, classes=classes)
    task = kind.task.for_data(experiment, model, data, training=True)
    _tell_of_warmup(experiment)
    stop = StopOnSignal(run_dir / CHECKPOINTS / LAST, accumulate=train.accumulate)
    with warnings.catch_warnings():
        _quiet()
        logger = MetricsCSV(run_dir / "metrics.csv", resume_step=done if last else None, pending=pending)
        trainer = _trainer(experiment, run_dir, callbacks=[stop, *kind.callbacks(train, run_dir)], logger=logger)
        if train.precision == "fp16" and trainer.strategy.root_device.type == "cpu":
            raise UserError("train.precision=fp16 needs a GPU; use bf16 or fp32 on a CPU")
        if trainer.is_global_zero:
            _make_folder(run_dir)
            save_experiment(experiment, run_dir / "config.yaml")
        with stop:
            trainer.fit(task, datamodule=data, ckpt_path=last, weights_only=True)
        give_back()  # the memory of the training's maps
        if trainer.is_global_zero:
            return _finish(run_dir)
        return _result(run_dir)


@rank_zero_only
def _tell_of_warmup(experiment: Experiment) -> None:
    """A training that was made shorter and ends in its warm-up is hardly meant."""
    warmup, steps = experiment.optim.warmup_steps, experiment.train.num_steps
    if warmup >= steps:
        print(
            f"the warm-up, optim.warmup_steps={warmup}, takes all of train.num_steps={steps}: "
            "the learning rate never reaches optim.lr; set a shorter one",
            file=sys.stderr,
        )


def build_model(
    config: ModelConfig, *, num_classes: int, task: str = "segmentation", classes: Sequence[str] | None = None
) -> nn.Module:
    """The model of an experiment, with its pretrained weights where they are asked for.

    A trained classifier's last layer is among them where it is for as many classes, of the names `classes` if given.
    """
    kind = model_kind(config.name)
    if kind != task:
        raise UserError(f"{config.name} is a model for {kind}, not {task}; see `densevit models --kind {task}`")
    for key in {"num_classes", "features_only"} & {*config.args}:
        raise UserError(f"model.args.{key}={config.args[key]} is not yours to set: data and task decide; leave it out")
    if config.pretrained is True and not takes_argument(config.name, "pretrained"):
        raise UserError(f"{config.name} has no published weights; give a file or a run: model.pretrained=PATH")
    args = {**config.args, "pretrained": True} if config.pretrained is True else config.args
    model = create_model(config.name, num_classes=num_classes, **args)
    if isinstance(config.pretrained, str):
        from densevit.weights.load import load_encoder
        from densevit.weights.load_classifier import load_classifier

        if task == "classification":
            print(load_classifier(model, config.pretrained, classes=classes))
        else:
            print(load_encoder(model, config.pretrained))
    model.config.pop("pretrained", None)  # type: ignore[union-attr,operator]  # a saved model brings its own weights
    return model


def _check_folder(run_dir: Path, *, resume: bool) -> Path | None:
    """The checkpoint to resume from, or None; UserError where the folder holds another run."""
    last = run_dir / CHECKPOINTS / LAST
    if resume and not last.is_file():
        raise UserError(f"nothing to resume in {run_dir}: there is no {CHECKPOINTS}/{LAST}")
    taken = any((run_dir / name).exists() for name in ("metrics.csv", f"{CHECKPOINTS}/{LAST}"))
    if taken and not resume and _is_first_process():  # other processes start when their run's folder is already there
        ways = f", remove it, or continue with --resume {run_dir}" if last.is_file() else " or remove it"
        raise UserError(f"{run_dir} already holds a run; give another --out{ways}")
    return last if resume else None


def _make_folder(run_dir: Path) -> None:
    """Made only once data and model are known to fit, so that a refused training leaves nothing behind."""
    try:
        (run_dir / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write the run folder {run_dir}: {error.strerror}; give another --out") from error


def _is_first_process() -> bool:
    return getattr(rank_zero_only, "rank", 0) == 0


def _trainer(experiment: Experiment, run_dir: Path, *, callbacks: list[L.Callback], logger: MetricsCSV) -> L.Trainer:
    train: TrainConfig = experiment.train
    callbacks = [
        *callbacks,
        StepProgress(num_steps=train.num_steps, batch_size=experiment.data.batch_size * train.accumulate),
        NaNGuard(train.log_every_steps),
        ValidateAtEnd(train.num_steps * train.accumulate),
    ]
    if train.early_stopping is not None:
        callbacks.append(EarlyStopping(TASKS[experiment.task].task.monitor, mode="max", patience=train.early_stopping))
    callbacks.append(SaveCheckpoints(run_dir / CHECKPOINTS))  # last, so that it sees the state of the others
    try:
        return L.Trainer(
            accelerator=train.accelerator,
            devices=train.devices,
            precision=PRECISIONS[train.precision],  # type: ignore[arg-type]
            # of no effect on one device; PyTorch has it for GPUs alone
            sync_batchnorm=torch.cuda.is_available() and train.accelerator != "cpu",
            max_epochs=1,  # one pass over a stream of `num_steps` updates
            val_check_interval=min(train.val_every_steps, train.num_steps) * train.accumulate,
            check_val_every_n_epoch=None,
            accumulate_grad_batches=train.accumulate,
            gradient_clip_val=experiment.optim.clip_grad_norm,
            num_sanity_val_steps=1,
            log_every_n_steps=1,  # `Task` decides what is logged
            use_distributed_sampler=False,  # `StepSampler` already gives each process its share
            enable_model_summary=False,
            enable_checkpointing=False,  # `SaveCheckpoints` does
            plugins=[AtomicCheckpointIO()],
            callbacks=callbacks,
            logger=[logger, TensorBoardLogger(run_dir, name="tensorboard", version="", purge_step=logger.purge_step)],
        )
    except (MisconfigurationException, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"train.accelerator={train.accelerator}, train.devices={train.devices}: {error}") from error


def _finish(run_dir: Path) -> FitResult:
    """Export the best checkpoint and write the last files of a run."""
    model, info = load_pretrained(run_dir / CHECKPOINTS / BEST)
    save_pretrained(model, run_dir, info=info)
    save_curves(run_dir / "metrics.csv", run_dir / "curves.png")
    result = _result(run_dir)
    write_scores(result.scores, run_dir)
    return result


def _result(run_dir: Path) -> FitResult:
    checkpoint = torch.load(run_dir / CHECKPOINTS / BEST, map_location="cpu", weights_only=True, mmap=True)
    info = ModelInfo.from_json(checkpoint[HEADER_KEY], source=str(run_dir))
    return FitResult(
        run_dir=run_dir,
        model_file=run_dir / MODEL_FILE,
        scores=read_scores(checkpoint, TASKS[info.task].task.scores_type, classes=info.classes),
        best_step=int(checkpoint["global_step"]),
    )


def write_scores(scores: Scores, folder: Path) -> None:
    """`scores.json`; of classes of pixels or images also `confusion.csv` and, where legible, `confusion.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.json").write_text(json.dumps(scores.to_dict(), indent=2) + "\n", encoding="utf-8")
    if not isinstance(scores, (SegmentationScores, ClassificationScores)):
        return
    write_confusion_csv(scores, folder / "confusion.csv")
    if len(scores.classes) <= LARGEST_PICTURE:
        save_confusion(scores.confusion, folder / "confusion.png", classes=scores.classes)


def _quiet() -> None:
    """Hide Lightning's advice and advertisements; real trouble is raised, not warned about."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message=".*isinstance.treespec.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*`__len__` could be inaccurate.*")  # `ShardBatches` divides itself
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")  # the moving average
    warnings.filterwarnings("ignore", message=".*AMP with fp16 is not supported on CPU.*")  # refused by `fit`
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")  # `StepSampler` is

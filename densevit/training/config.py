"""The numbers of a segmentation experiment: frozen, keyword-only, validated, one home for every default.

Nothing heavy is imported here: the command line reads these classes to know its options. Sizes are (H, W) in pixels,
a step is one optimizer update, pixel values are on the 0-255 scale.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from densevit.errors import UserError, unknown_name
from densevit.inference.settings import InferenceConfig

LOSSES = ("cross_entropy", "ohem", "focal", "dice", "lovasz")
"""Names that `loss.terms` may hold."""


def require(condition: bool, message: str) -> None:
    """Raise UserError(message) unless `condition` holds."""
    if not condition:
        raise UserError(message)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which model."""

    name: str = "setr_pup_vit_small"
    """A name of `densevit models`; setr_{naive,pup,mla}_NAME or {upernet,semantic_fpn,fcn}_NAME with a NAME of timm."""
    pretrained: bool | str = False
    """True: the encoder's weights from timm; a path, URL or hub name: from there; False: from random numbers."""
    args: dict[str, Any] = field(default_factory=dict)
    """Further arguments of `densevit.create_model`, such as {drop_path_rate: 0.1}."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, and how they are augmented (Sec. 4.1)."""

    name: str = "scenes"
    """A data set: scenes, folder, camvid, ade20k, cityscapes ..."""
    root: str | None = None
    """Its folder, where it is made of files."""
    args: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the data set."""
    train_split: str = "train"
    """Split to train on."""
    val_split: str = "val"
    """Split to validate on."""
    batch_size: int = 8
    """Images in one forward pass, over all devices together."""
    num_workers: int = 2
    """Processes that load images, per device; 0 loads in the main process."""
    crop_size: tuple[int, int] = (512, 512)
    """Height and width of a training crop."""
    resize_base: tuple[int, int] | None = None
    """Long and short side that the random resize starts from; None: the image's own size."""
    ratio_range: tuple[float, float] = (0.5, 2.0)
    """Range of the random resize."""
    cat_max_ratio: float = 0.75
    """A crop is drawn again (up to 10 times) while one class covers more than this share of it; 1 turns this off."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    photometric: bool = True
    """Random brightness, contrast, saturation and hue."""
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    """Per-channel mean that is subtracted, RGB."""
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    """Per-channel standard deviation that is divided by, RGB."""

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, f"data.batch_size must be at least 1, not {self.batch_size}")
        require(self.num_workers >= 0, f"data.num_workers cannot be negative ({self.num_workers})")
        require(min(self.crop_size) >= 1, f"data.crop_size must be positive, not {self.crop_size}")
        low, high = self.ratio_range
        require(0 < low <= high, f"data.ratio_range must be 0 < low <= high, not {self.ratio_range}")
        require(0 <= self.flip <= 1, f"data.flip is a probability, not {self.flip}")
        require(0 < self.cat_max_ratio <= 1, f"data.cat_max_ratio must be in (0, 1], not {self.cat_max_ratio}")
        require(min(self.std, default=0) > 0, f"data.std must be above 0, not {self.std}")
        require(len(self.mean) == len(self.std), "data.mean and data.std must have one number per channel each")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer and learning-rate schedule."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD for SETR, AdamW for HLG and for training from scratch."""
    lr: float = 0.01
    """Learning rate of the encoder after warm-up."""
    head_lr_mult: float = 10.0
    """Factor on the learning rate of the decoder and the auxiliary heads (the neck of MLA counts as encoder)."""
    momentum: float = 0.9
    """Momentum of SGD."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Betas of AdamW."""
    weight_decay: float = 0.0
    """Weight decay; never on norms, positions and class tokens, nor on biases unless `decay_biases`."""
    decay_biases: bool = False
    """Weight decay on biases too, except those of norms, as mmdetection's recipes have it."""
    schedule: Literal["poly", "cosine", "step", "constant"] = "poly"
    """Shape of the learning rate after warm-up."""
    poly_power: float = 0.9
    """Exponent of the poly schedule."""
    milestones: tuple[float, ...] = ()
    """Shares of the training after which the step schedule goes down to a tenth, such as 8/12 and 11/12."""
    min_lr: float = 0.0
    """Floor of the learning rate, the same for every group."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    warmup_ratio: float = 1e-6
    """Share of the scheduled learning rate at which the warm-up starts."""
    warmup_prefix: bool = False
    """The schedule starts after the warm-up, which then rises to lr, instead of running below it."""
    lr_batch_size: int | None = None
    """Images per update for which lr and min_lr hold, to be scaled with the real number; None: not scaled."""
    clip_grad_norm: float | None = None
    """Largest norm of the gradient; None: not clipped."""
    layer_decay: float = 1.0
    """Factor on the learning rate from one block of the encoder to the block before it; 1: all alike."""

    def __post_init__(self) -> None:
        require(self.lr > 0, f"optim.lr must be above 0, not {self.lr}")
        require(self.warmup_steps >= 0, f"optim.warmup_steps cannot be negative ({self.warmup_steps})")
        base = self.lr_batch_size
        require(base is None or base >= 1, f"optim.lr_batch_size must be at least 1 or null, not {base}")
        require(self.weight_decay >= 0, f"optim.weight_decay cannot be negative ({self.weight_decay})")
        require(0 <= self.min_lr <= self.lr, f"optim.min_lr must be in [0, optim.lr {self.lr}], not {self.min_lr}")
        require(self.head_lr_mult > 0, f"optim.head_lr_mult must be above 0, not {self.head_lr_mult}")
        require(0 <= self.momentum < 1, f"optim.momentum must be in [0, 1), not {self.momentum}")
        require(all(0 <= beta < 1 for beta in self.betas), f"optim.betas must be in [0, 1), not {self.betas}")
        require(self.poly_power > 0, f"optim.poly_power must be above 0, not {self.poly_power}")
        stones, rising = self.milestones, tuple(sorted(set(self.milestones)))
        in_range = all(0 < stone < 1 for stone in stones) and stones == rising
        require(in_range, f"optim.milestones must be rising numbers between 0 and 1, not {stones}")
        needs = self.schedule == "step" and not stones
        require(not needs, "optim.schedule=step needs optim.milestones, such as [0.67,0.92]")
        require(0 <= self.warmup_ratio <= 1, f"optim.warmup_ratio must be in [0, 1], not {self.warmup_ratio}")
        require(0 < self.layer_decay <= 1, f"optim.layer_decay must be in (0, 1], not {self.layer_decay}")
        clip = self.clip_grad_norm
        require(clip is None or clip > 0, f"optim.clip_grad_norm must be above 0 or null, not {clip}")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Loss of the main decoder and of each auxiliary head."""

    terms: dict[str, float] = field(default_factory=lambda: {"cross_entropy": 1.0})
    """Losses and their weights, summed: cross_entropy (the paper's), ohem, focal, dice, lovasz."""
    class_weights: tuple[float, ...] | Literal["balanced"] | None = None
    """One weight per class; balanced: median share of pixels / the class's share; None: all alike."""
    label_smoothing: float = 0.0
    """Share of the target of cross_entropy spread over all classes."""
    ohem_threshold: float = 0.7
    """Pixels whose true class has a lower probability count in ohem."""
    ohem_min_kept: int = 100_000
    """Pixels of a batch that count in ohem at least."""
    focal_gamma: float = 2.0
    """Exponent of focal: how little pixels that are right already count."""
    mean_over: Literal["labelled", "all"] = "labelled"
    """Average over labelled pixels, or over all pixels including ignored ones as the authors' code does."""
    auxiliary_weight: float = 0.4
    """Weight of each auxiliary head's loss."""

    def __post_init__(self) -> None:
        require(bool(self.terms), "loss.terms is empty; give at least one, such as {cross_entropy: 1}")
        for name, weight in self.terms.items():
            if name not in LOSSES:
                raise unknown_name("loss", name, LOSSES)
            require(weight > 0, f"loss.terms.{name} must be above 0, not {weight}")
        weights = self.class_weights
        if weights is not None and weights != "balanced":
            require(
                min(weights, default=0) >= 0 < max(weights, default=0), f"loss.class_weights {weights} weigh nothing"
            )
        require(0 <= self.label_smoothing < 1, f"loss.label_smoothing must be in [0, 1), not {self.label_smoothing}")
        require(
            self.label_smoothing == 0 or "cross_entropy" in self.terms,
            f"loss.label_smoothing {self.label_smoothing} needs cross_entropy among loss.terms",
        )
        require(0 < self.ohem_threshold <= 1, f"loss.ohem_threshold is a probability, not {self.ohem_threshold}")
        require(self.ohem_min_kept >= 1, f"loss.ohem_min_kept must be at least 1, not {self.ohem_min_kept}")
        require(self.focal_gamma >= 0, f"loss.focal_gamma cannot be negative ({self.focal_gamma})")
        require(self.auxiliary_weight >= 0, f"loss.auxiliary_weight cannot be negative ({self.auxiliary_weight})")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, where and with what precision."""

    num_steps: int = 10_000
    """Optimizer updates."""
    val_every_steps: int = 1_000
    """Validate after this many steps, and at the end."""
    log_every_steps: int = 20
    """Write losses and learning rate after this many steps."""
    early_stopping: int | None = None
    """Stop after this many validations without a better mIoU; None: never."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the forward and backward pass (weights stay fp32)."""
    accumulate: int = 1
    """Forward passes per optimizer update."""
    ema: float | None = None
    """Decay of a moving average of the weights, such as 0.9999, which is then validated and exported; None: none."""
    compile: bool = False
    """Compile the training forward pass with torch.compile."""
    seed: int = 0
    """Seed of weights, sample order and augmentation."""
    accelerator: str = "auto"
    """Lightning's accelerator: auto, cpu, gpu ..."""
    devices: int | str = "auto"
    """Lightning's devices: auto or a number."""
    num_sample_pictures: int = 4
    """Validation images drawn into TensorBoard and the run folder at each validation."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "val_every_steps", "log_every_steps", "accumulate"):
            require(getattr(self, name) >= 1, f"train.{name} must be at least 1, not {getattr(self, name)}")
        stop = self.early_stopping
        require(stop is None or stop >= 1, f"train.early_stopping must be at least 1 or null, not {stop}")
        require(self.seed >= 0, f"train.seed cannot be negative ({self.seed})")
        require(
            self.num_sample_pictures >= 0, f"train.num_sample_pictures cannot be negative ({self.num_sample_pictures})"
        )
        require(self.ema is None or 0 < self.ema < 1, f"train.ema must be in (0, 1) or null, not {self.ema}")


@dataclass(frozen=True, kw_only=True)
class SegmentationExperiment:
    """A semantic segmentation experiment: everything that `densevit fit` needs."""

    task: Literal["segmentation"] = "segmentation"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: InferenceConfig = field(default_factory=InferenceConfig)

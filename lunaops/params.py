"""params.yaml as a frozen, typed tree; unknown, missing and out-of-range keys are refused by full name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from lunaops.errors import InputError

Part = Annotated[str, Field(pattern=r"^(labels|subset[0-9])$")]
Subset = Annotated[str, Field(pattern=r"^subset[0-9]$")]
Split = Literal["train", "val", "test"]
Fold = Annotated[int, Field(ge=0, le=9)]
Hu = Annotated[int, Field(ge=-32768, le=32767)]
CropSide = Annotated[int, Field(ge=16, le=512)]  # the network halves it four times; a whole scan's plane
PixelSpacing = Annotated[float, Field(ge=0.3, le=2)]  # mm; these eight: what fits the phantom
SliceSpacing = Annotated[float, Field(ge=0.5, le=10)]  # mm
NoduleDiameter = Annotated[float, Field(ge=1, le=40)]  # mm
NumNodules = Annotated[int, Field(ge=1, le=50)]
NumMarks = Annotated[int, Field(ge=1, le=20)]
NumCandidates = Annotated[int, Field(ge=1, le=1000)]
BlurWidth = Annotated[float, Field(gt=0, le=5)]  # mm
NoiseHu = Annotated[float, Field(ge=0, le=1000)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what every generator takes
Probability = Annotated[float, Field(ge=0, le=1)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]
RegisteredName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]  # MLflow takes more, a command line not
Precision = Literal["fp32", "tf32", "bf16"]
TaskName = Literal["nodule", "malignancy"]
MAX_CHANNELS = 256  # of the first block; the last has eight times as many


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class FetchParams(_Section):
    """Where the scans and their labels come from."""

    source: Literal["phantom", "directory", "zenodo"]
    parts: Annotated[tuple[Part, ...], Field(strict=False, min_length=1)]
    directory: str | None
    labels_directory: str | None
    copy_scans: bool
    candidates: Literal["candidates", "candidates_V2"]
    base_url: Annotated[str, Field(pattern=r"^https?://[^/\s?#]+(/[^/\s?#]+)*/?$")]
    keep_archives: bool

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.source == "directory" and not self.directory:
            raise ValueError("source is 'directory', so fetch.directory must name your LUNA16 folder")
        if self.source == "phantom" and self.candidates != "candidates":
            raise ValueError("candidates must be 'candidates' where source is 'phantom', which makes no others")
        if "labels" not in self.parts or len(self.parts) == 1:
            raise ValueError(f"parts must name labels and at least one subset, got {', '.join(self.parts)}")
        if len(set(self.parts)) < len(self.parts):
            raise ValueError(f"parts names a part twice: {', '.join(self.parts)}")
        return self


class PhantomParams(_Section):
    """The embedded data set."""

    seed: Seed
    subsets: Annotated[int, Field(ge=1, le=10)]
    scans_per_subset: PositiveInt
    max_megavoxels: Annotated[float, Field(ge=0.5)]
    spacing_mm: Annotated[tuple[PixelSpacing, PixelSpacing], Field(strict=False)]
    slices_mm: Annotated[tuple[SliceSpacing, ...], Field(strict=False, min_length=1)]
    noise_hu: Annotated[tuple[NoiseHu, NoiseHu], Field(strict=False)]
    blur_mm: Annotated[tuple[BlurWidth, BlurWidth], Field(strict=False)]
    share_flipped: Probability
    share_without_nodules: Probability
    nodules_per_scan: Annotated[tuple[NumNodules, NumNodules], Field(strict=False)]
    diameter_deciles_mm: Annotated[tuple[NoduleDiameter, ...], Field(strict=False, min_length=2)]
    subtle_share: Probability
    attached_share: Probability
    marks_per_nodule: Annotated[tuple[NumMarks, NumMarks], Field(strict=False)]
    candidates_per_scan: Annotated[tuple[NumCandidates, NumCandidates], Field(strict=False)]
    look_alike_share: Probability

    @model_validator(mode="after")
    def _rising(self) -> Self:
        names = ("spacing_mm", "noise_hu", "blur_mm", "nodules_per_scan", "diameter_deciles_mm")
        for name in (*names, "marks_per_nodule", "candidates_per_scan"):
            values = getattr(self, name)
            if list(values) != sorted(values):
                raise ValueError(f"{name} must not fall, got {list(values)}")
        return self


class MergeParams(_Section):
    """How candidates are matched to annotations."""

    box_fraction: Annotated[float, Field(gt=0, le=1)]


class SplitParams(_Section):
    """Which candidates train, validate and test."""

    strategy: Literal["subset", "k_fold", "series_hash", "candidate_stride"]
    val: Annotated[tuple[Subset, ...], Field(strict=False)]
    test: Annotated[tuple[Subset, ...], Field(strict=False)]
    fold: Fold
    folds: Annotated[tuple[Fold, ...], Field(strict=False, min_length=1)]
    seed: Seed
    val_share: Annotated[float, Field(gt=0, lt=1)]
    test_share: Annotated[float, Field(ge=0, lt=1)]
    val_stride: Annotated[int, Field(ge=2)]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for name in ("val", "test"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name} names a subset twice: {', '.join(getattr(self, name))}")
        both = sorted(set(self.val) & set(self.test))
        if both:
            raise ValueError(f"val and test both name {', '.join(both)}; a subset is in one split only")
        if self.strategy == "subset" and not self.val:
            raise ValueError("val must name a subset where strategy is 'subset': each epoch is validated on it")
        if len(set(self.folds)) < len(self.folds):
            raise ValueError(f"folds names a fold twice, got {list(self.folds)}")
        if self.val_share + self.test_share >= 1:
            raise ValueError(f"val_share {self.val_share:g} and test_share {self.test_share:g} leave nothing to train")
        return self


class CropParams(_Section):
    """What is cut out of a scan around a candidate."""

    size_irc: Annotated[tuple[CropSide, CropSide, CropSide], Field(strict=False)]
    hu_range: Annotated[tuple[Hu, Hu], Field(strict=False)]
    pad_hu: Hu
    workers: NonNegativeInt

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.hu_range
        if not low < high:
            raise ValueError(f"hu_range must rise, got [{low}, {high}]")
        if not low <= self.pad_hu <= high:
            raise ValueError(f"pad_hu {self.pad_hu} lies outside hu_range [{low}, {high}]")
        return self


class ModelParams(_Section):
    """What the network tells apart, and its size."""

    task: TaskName
    channels: Annotated[int, Field(ge=1, le=MAX_CHANNELS)]


class TrainParams(_Section):
    """How the network is trained."""

    launch: Annotated[str, Field(min_length=1)]
    seed: Seed
    device: Device
    epochs: PositiveInt
    samples_per_epoch: Annotated[int, Field(ge=0, le=10**8)]  # 200 times LUNA16; their order is held in memory
    batch_size: PositiveInt
    optimizer: Literal["adamw", "sgd"]
    learning_rate: PositiveFloat
    schedule: Literal["constant", "cosine", "plateau"]
    warmup_samples: NonNegativeInt
    plateau_patience: PositiveInt
    plateau_factor: Annotated[float, Field(gt=0, lt=1)]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: NonNegativeFloat
    clip_norm: NonNegativeFloat
    accumulate: PositiveInt
    balance: NonNegativeFloat
    threshold: Probability
    patience: NonNegativeInt
    best_by: Literal[
        "average_precision", "roc_auc", "pr/f1_score", "pr/recall", "pr/precision", "correct/all", "loss/all"
    ]
    precision: Literal["auto"] | Precision
    precision_tolerance: Annotated[float, Field(gt=0, le=1)]
    compile: bool
    deterministic: bool
    checkpoint_every: NonNegativeInt
    num_workers: NonNegativeInt
    init_from: str | None
    trainable_blocks: Annotated[int, Field(ge=0, le=4)]
    keep_checkpoints: NonNegativeInt


class AugmentParams(_Section):
    """How training crops are varied; validation crops never are."""

    flip: bool
    offset_mm: Annotated[float, Field(ge=0, le=50)]
    scale: Annotated[float, Field(ge=0, le=1)]
    rotate_degrees: Annotated[float, Field(ge=0, le=180)]
    noise_hu: Annotated[float, Field(ge=0, le=1000)]


class PredictParams(_Section):
    """Which candidates are scored, and with which checkpoint."""

    model: Literal["best", "last"]
    splits: Annotated[tuple[Split, ...], Field(strict=False, min_length=1)]
    device: Device
    batch_size: PositiveInt
    gallery: NonNegativeInt

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.splits)) < len(self.splits):
            raise ValueError(f"splits names a split twice: {', '.join(self.splits)}")
        return self


class EvaluateParams(_Section):
    """How predictions become numbers."""

    split: Split
    threshold_rule: Literal["fixed", "best_f1", "sensitivity", "fps_per_scan"]
    threshold: Probability
    min_sensitivity: Annotated[float, Field(gt=0, le=1)]
    max_fps_per_scan: NonNegativeFloat
    calibrate: bool
    calibration_bins: Annotated[int, Field(ge=2, le=1000)]
    compare_with: Annotated[str, Field(min_length=1)] | None
    register_as: RegisteredName | None = Field(alias="register")  # `register` is a method of every pydantic class
    fps_per_scan: Annotated[tuple[PositiveFloat, ...], Field(strict=False, min_length=1)]
    max_marks_per_scan: PositiveInt | None
    unknown_diameter_mm: PositiveFloat
    bootstraps: NonNegativeInt
    seed: Seed
    diameter_bands_mm: Annotated[tuple[NonNegativeFloat, ...], Field(strict=False, min_length=2)]
    gallery: NonNegativeInt

    @model_validator(mode="after")
    def _rising(self) -> Self:
        for name in ("fps_per_scan", "diameter_bands_mm"):
            values = getattr(self, name)
            if list(values) != sorted(set(values)):
                raise ValueError(f"{name} must rise, got {list(values)}")
        return self


class CiParams(_Section):
    """When a pull request fails."""

    max_cpm_drop: Probability


class Params(_Section):
    """The whole of params.yaml."""

    fetch: FetchParams
    phantom: PhantomParams
    merge: MergeParams
    split: SplitParams
    crop: CropParams
    model: ModelParams
    train: TrainParams
    augment: AugmentParams
    predict: PredictParams
    evaluate: EvaluateParams
    ci: CiParams

    @model_validator(mode="after")
    def _rule_of_task(self) -> Self:
        rule = self.evaluate.threshold_rule
        if self.model.task == "malignancy" and rule not in ("fixed", "best_f1"):
            raise ValueError(
                f"evaluate.threshold_rule {rule} counts what is found in scans, which model.task malignancy does not "
                "search: set it to fixed or best_f1"
            )
        return self

    def flattened(self) -> dict[str, Any]:
        """Every parameter by its full key, as MLflow wants them: {'train.learning_rate': 0.001, ...}."""
        return dict(_flatten(self.model_dump(mode="json", by_alias=True)))


def read_params(path: Path) -> Params:
    """Read and check params.yaml.

    Raises InputError with the file, the parameter's full key, the value got and what was wanted.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give --params-file, or run from the project's root")
    try:
        tree = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))  # YAML 1.2, as DVC reads it
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path}: wanted sections such as 'train:', got {type(tree).__name__}")
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        raise InputError(f"{path}: " + "; ".join(_lines(error))) from error


def _lines(error: ValidationError) -> Iterator[str]:
    for problem in error.errors():
        key = ".".join(str(step) for step in problem["loc"]) or "params"
        if problem["type"] == "extra_forbidden":
            yield f"{key}: unknown parameter; mend the name or remove it"
        elif problem["type"] == "missing" and isinstance(problem["loc"][-1], int):
            yield f"{key.rpartition('.')[0]}: too few values, got {problem['input']!r}"
        elif problem["type"] == "missing":
            yield f"{key}: missing parameter; add it"
        else:
            message = problem["msg"].removeprefix("Value error, ")
            ours = problem["type"] == "value_error"  # our own checks begin with the parameter's name
            yield f"{key}.{message}".removeprefix("params.") if ours else f"{key}: {message}, got {problem['input']!r}"


def _flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value

"""The settings of a run: training stages, fine-tuning a network, or probing its layers."""

from dataclasses import dataclass
from typing import Any, ClassVar

from pretrain.data.dataset_settings import DataSource, DigitsData
from pretrain.errors import UserError, choose, require_between
from pretrain.runs.device import Device
from pretrain.runs.typed_settings import Resuming, complaints_at, setting, settle
from pretrain.stages.stack_settings import StackSettings
from pretrain.training.recipes import Recipe, check_stack_settings


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of every run.

    Attributes
    ----------
    out : str
        Folder of the run.
    stack : StackSettings
        Stack of the network.
    data : DataSource
        Images of the run.
    seed : int
        Seed of every random draw. Runs on the same CPU with the same number of threads are bit-identical.
    device : Device
        Device and precision to compute with.
    overwrite : bool
        Whether a run with other settings in the folder is deleted.
    """

    products: ClassVar[tuple[str, ...]] = ()

    out: str = setting(resuming=Resuming.FREE, path=True)
    stack: StackSettings
    data: DataSource = setting(factory=DigitsData)
    seed: int = 0
    device: Device = setting(factory=Device)
    overwrite: bool = setting(False, resuming=Resuming.FREE)

    def __post_init__(self) -> None:
        """Reject a stack that does not fit the images."""
        settle(self)
        self.data.refuse_output("out", self.out)
        check_stack_settings(self.stack, self.data.shape)


@dataclass(frozen=True, kw_only=True)
class StageRun(RunSettings):
    """Train the stages of a stack.

    Attributes
    ----------
    upto : int, optional
        Number of stages to train; a later call may continue with the next. None for all.
    num_unlabelled : int, optional
        Number of unlabelled images to learn from, drawn by the seed; None for all.
    """

    products = (
        "stack.safetensors",
        *("stage*-filters.png", "stage*-health.png", "stage*-reconstructions.png", "stage*-samples.png"),
    )

    upto: int | None = setting(None, resuming=Resuming.GROWS)
    num_unlabelled: int | None = None

    def __post_init__(self) -> None:
        """Reject invalid values."""
        super().__post_init__()
        if self.upto is not None and not 1 <= self.upto <= len(self.stack.stages):
            raise UserError(f"upto={self.upto}: the stack has {len(self.stack.stages)} stages.")
        if self.num_unlabelled is not None:
            require_between("num_unlabelled", self.num_unlabelled, 1)


@dataclass(frozen=True, kw_only=True)
class NetworkRun(RunSettings):
    """Settings of a run that starts from an assembled network.

    Attributes
    ----------
    init : {"scratch", "pretrained"}
        Start of the layers.
    stages : str, optional
        Folder of a finished `StageRun`, for pretrained layers. It may move, since a digest identifies the layers.
    labels : int or "all"
        Label budget.
    """

    init: str = "scratch"
    stages: str | None = setting(None, resuming=Resuming.FREE, path=True)
    labels: Any = "all"

    def __post_init__(self) -> None:
        """Reject invalid values."""
        super().__post_init__()
        choose("init", self.init, ("scratch", "pretrained"))
        if type(self.labels) is not int and self.labels != "all":
            raise UserError(f"labels={self.labels}: give a number, or all.")
        if self.init == "pretrained" and not self.stages:
            raise UserError("init=pretrained needs trained stages: give stages=DIR, a run of python -m pretrain.stage.")
        if self.init == "scratch" and self.stages:
            raise UserError(f"stages={self.stages} is for pretrained layers: give init=pretrained with it.")

    @property
    def pretrained(self) -> bool:
        """Whether the layers are pretrained."""
        return self.init == "pretrained"

    @property
    def label_budget(self) -> int | None:
        """The label budget as a number; None for all."""
        return None if self.labels == "all" else self.labels


@dataclass(frozen=True, kw_only=True)
class FinetuningRun(NetworkRun):
    """Train an assembled network end to end.

    Attributes
    ----------
    recipe : Recipe
        Settings of the training.
    upto : int, optional
        Number of pretrained layers to keep; the others start from scratch. None for all.
    extra_flops : int
        Floating-point operations to spend on additional steps.
    test : bool
        Whether the test split is read, once, at the end; False for a trial that chooses settings.
    arm : str, optional
        Name of the arm in the summary; None for the name that the other settings imply.
    """

    products = ("network.safetensors", "confusion.png", "learning-curves.png")

    recipe: Recipe = setting(factory=Recipe)
    upto: int | None = None
    extra_flops: int = 0
    test: bool = True
    arm: str | None = None

    def __post_init__(self) -> None:
        """Reject invalid values."""
        super().__post_init__()
        with complaints_at("recipe"):
            self.recipe.check_network(len(self.stack.stages), self.data.shape)
        if self.upto is not None:
            require_between("upto", self.upto, 1, len(self.stack.stages))
        if self.upto is not None and not self.pretrained:
            raise UserError(f"upto={self.upto} is for pretrained layers: give init=pretrained with it.")

    @property
    def arm_name(self) -> str:
        """The name of the arm in the summary."""
        if self.arm:
            return self.arm
        if self.recipe.freeze:
            return "pretrained-frozen" if self.pretrained else "random-frozen"
        return "pretrained" if self.pretrained else "scratch"


@dataclass(frozen=True, kw_only=True)
class ProbeRun(NetworkRun):
    """Probe each depth of an assembled network."""

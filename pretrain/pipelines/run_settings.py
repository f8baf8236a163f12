"""The settings of a run: training stages, fine-tuning a network, or probing its layers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pretrain.data.dataset_settings import DataSource, DigitsData
from pretrain.runs.device import Device
from pretrain.runs.setting_types import Count, FileName, FromZero, OnlyWith
from pretrain.runs.typed_settings import Resuming, Settings, problems_within, setting
from pretrain.stages.stack_settings import StackSettings
from pretrain.training.recipes import Recipe

POOL = "pool.safetensors"  # fingerprints of the images that stages learned from


@dataclass(frozen=True, kw_only=True)
class RunSettings(Settings):
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
    dry_run : bool
        Whether to say what would be run and what is there already, with an estimate of the time, and end.
    profile : bool
        Whether to say at the end where the time went, and to record a few steps of each phase with torch.profiler.
    """

    products: ClassVar[tuple[str, ...]] = ()

    out: FileName = setting(resuming=Resuming.FREE)
    stack: StackSettings
    data: DataSource = setting(factory=DigitsData)
    seed: FromZero = 0
    device: Device = setting(factory=Device)
    overwrite: bool = setting(False, resuming=Resuming.FREE)
    dry_run: bool = setting(False, resuming=Resuming.FREE)
    profile: Annotated[bool, OnlyWith("dry_run", False)] = setting(False, resuming=Resuming.FREE)

    def contradictions(self) -> Iterator[str]:
        """Yield the problems of the folder, and of a layer that does not fit the images."""
        yield from problems_within("", self.data.refuse_output, "out", self.out)
        yield from problems_within("stack", self.stack.layer_rows, self.data.shape, 2)


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
        *("stack.safetensors", POOL),
        *("stage*-filters.png", "stage*-health.png", "stage*-reconstructions.png", "stage*-samples.png"),
    )

    upto: Count | None = setting(None, resuming=Resuming.GROWS)
    num_unlabelled: Count | None = None

    def contradictions(self) -> Iterator[str]:
        """Yield a line when there are not so many stages."""
        yield from super().contradictions()
        yield from _beyond_the_stack(self.upto, self.stack)


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
    label_seed, weight_seed : int, optional
        Seeds of two single draws: the labelled images, and the initial weights. None: `seed`. With all others varied
        and one held, or the other way round, several runs show how much each draw matters (Bouthillier et al. 2021).
    """

    init: Literal["scratch", "pretrained"] = "scratch"
    stages: FileName | None = setting(None, resuming=Resuming.FREE)
    labels: Literal["all"] | Count = "all"
    label_seed: FromZero | None = None
    weight_seed: FromZero | None = None

    def contradictions(self) -> Iterator[str]:
        """Yield a line when labels or trained stages are missing, or stages are given for layers from scratch."""
        yield from super().contradictions()
        yield from problems_within("data", self.data.require_labels)
        if self.init == "pretrained" and not self.stages:
            yield "init=pretrained needs trained stages: give stages=DIR, a run of python -m pretrain.stage."
        if self.init == "scratch" and self.stages:
            yield f"stages={self.stages} is for pretrained layers: give init=pretrained with it."

    @property
    def pretrained(self) -> bool:
        """Whether the layers are pretrained."""
        return self.init == "pretrained"

    @property
    def label_budget(self) -> int | None:
        """The label budget as a number; None for all."""
        return self.labels if isinstance(self.labels, int) else None

    @property
    def seed_of_labels(self) -> int:
        """The seed that draws the labelled images."""
        return self.seed if self.label_seed is None else self.label_seed

    @property
    def seed_of_weights(self) -> int:
        """The seed that draws the initial weights."""
        return self.seed if self.weight_seed is None else self.weight_seed


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
    order_seed : int, optional
        Seed of the order of images, of augmentation and of dropout. None: `seed`.
    """

    products = ("network.safetensors", "test-predictions.safetensors", "confusion.png", "learning-curves.png")

    recipe: Recipe = setting(factory=Recipe)
    upto: Count | None = None
    extra_flops: FromZero = 0
    test: bool = True
    arm: str | None = None
    order_seed: FromZero | None = None

    def contradictions(self) -> Iterator[str]:
        """Yield a line when the recipe does not fit the network, or there are not so many pretrained layers."""
        yield from super().contradictions()
        yield from problems_within("recipe", self.recipe.check_network, len(self.stack.stages), self.data.shape)
        yield from _beyond_the_stack(self.upto, self.stack)
        if self.upto is not None and not self.pretrained:
            yield f"upto={self.upto} is for pretrained layers: give init=pretrained with it."

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


def _beyond_the_stack(upto: int | None, stack: StackSettings) -> Iterator[str]:
    """Yield a line when a stack has fewer stages."""
    if upto is not None and upto > len(stack.stages):
        yield f"upto={upto}: the stack has {len(stack.stages)} stages."

"""The settings of each kind of stage beside its layer and its training, checked without importing torch."""

import inspect
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Any, ClassVar, Literal

from hydra.utils import get_class

from pretrain.data.view_settings import ViewSettings
from pretrain.errors import UserError
from pretrain.network.layer_settings import ACTIVATIONS, LayerSettings
from pretrain.runs.setting_types import Count, In, NonNegative, OnlyWith, Share
from pretrain.runs.typed_settings import Settings, gathered

Inner = Annotated[float, In(gt=0, lt=1)]
FilterInit = Literal["random", "patches", "kmeans"]


@dataclass(frozen=True)
class KindSettings(Settings):
    """The settings of a kind of stage, and what it needs of its layer and its training."""

    activations: ClassVar[Iterable[str]] = ACTIVATIONS
    greatest_rate: ClassVar[float] = math.inf

    def check_layer(self, layer: LayerSettings) -> None:
        """Raise a `UserError` when the stage cannot train such a layer."""
        with gathered() as problems:
            if layer.activation not in self.activations:
                wanted = " or ".join(self.activations)
                problems.append(f"layer.activation={layer.activation}: this kind of stage needs {wanted}.")
            problems += self.layer_problems(layer)

    def layer_problems(self, layer: LayerSettings) -> Iterator[str]:
        """Yield a line for each other setting of a layer that the stage cannot train."""
        yield from ()

    def check_rate(self, learning_rate: float) -> None:
        """Raise a `UserError` when the rule of the stage has no use for such a learning rate."""
        if learning_rate > self.greatest_rate:
            raise UserError(
                f"learning_rate={learning_rate:g}: this kind of stage takes at most {self.greatest_rate:g}."
            )


@dataclass(frozen=True)
class ConvAutoencoderSettings(KindSettings):
    """The settings of `ConvAutoencoder`.

    Attributes
    ----------
    filter_init : {"random", "patches", "kmeans"}
        The initial filters: Glorot's random numbers; or whitened patches of the inputs, drawn at random or found by
        k-means. See `initialize_filters`.
    tied : bool
        Decode with the encoder's filters.
    corruption, corruption_level
        Noise on the input, which the reconstruction must undo (Vincent et al. 2010); see `Corruption`.
    unpooling : {"switches", "none"}
        "switches": the code is the pooled maps, put back where the maxima were, so that only the greatest activation of
        a window takes part (Masci et al. 2011). "none": pooling is left out while the stage learns, and undone by
        spreading its output over the window.
    sparsity : {"none", "l1", "kl", "spatial_winner_take_all", "lifetime_winner_take_all"}
        A penalty on the activations, or a competition between them while the stage learns.
    sparsity_weight : float
        Factor of the penalty.
    sparsity_target : float
        Wanted mean activation ("kl"), or share of the batch that may win ("lifetime_winner_take_all").
    reconstruction : {"mse", "cross_entropy"}
        The loss, a mean over all elements. Cross-entropy needs inputs from 0 to 1.
    """

    filter_init: FilterInit = "random"
    tied: bool = True
    corruption: Literal["none", "gaussian", "masking", "salt_and_pepper"] = "none"
    corruption_level: Annotated[NonNegative, OnlyWith("corruption", "gaussian", "masking", "salt_and_pepper")] = 0.2
    unpooling: Literal["switches", "none"] = "switches"
    sparsity: Literal["none", "l1", "kl", "spatial_winner_take_all", "lifetime_winner_take_all"] = "none"
    sparsity_weight: Annotated[NonNegative, OnlyWith("sparsity", "l1", "kl")] = 0.1
    sparsity_target: Annotated[Inner, OnlyWith("sparsity", "kl", "lifetime_winner_take_all")] = 0.05
    reconstruction: Literal["mse", "cross_entropy"] = "mse"

    def contradictions(self) -> Iterator[str]:
        """Yield a line when a share is above 1."""
        if self.corruption != "gaussian" and self.corruption_level > 1:
            yield (
                f"corruption_level={self.corruption_level:g}: it must be a share from 0 to 1 with "
                f"corruption={self.corruption}."
            )

    def layer_problems(self, layer: LayerSettings) -> Iterator[str]:
        """Yield a line for each setting that the penalty or the unpooling cannot work with."""
        if self.sparsity == "kl" and layer.activation != "sigmoid":
            yield (f"sparsity=kl needs activations from 0 to 1: use activation=sigmoid, not {layer.activation}.")
        width, stride, _ = layer.pool
        if self.unpooling == "switches" and stride > 1 and (layer.pooling != "max" or width > stride):
            yield ("unpooling=switches needs layer.pooling=max over windows that do not overlap: give unpooling=none.")


@dataclass(frozen=True)
class ConvRBMSettings(KindSettings):
    """The settings of `ConvRBM`.

    Attributes
    ----------
    filter_init : {"random", "patches", "kmeans"}
        The initial filters: random numbers of standard deviation 0.01; or whitened patches of the inputs, as small,
        drawn at random or found by k-means. See `initialize_filters`.
    visible : {"gaussian", "bernoulli"}
        Real-valued, for standardized images; or of two values, for inputs that lie between two bounds, such as pixels
        (not whitened ones) and the probabilities of a stage below.
    variance : {"fixed", "learned"}
        The variance of Gaussian visible units: 1, or one for each channel (Cho, Ilin and Raiko 2011).
    sampler : {"cd", "pcd", "pt"}
        Contrastive divergence; persistent chains (Tieleman 2008); or persistent chains at several temperatures (Cho et
        al. 2010).
    gibbs_steps : int
        Gibbs steps in an update.
    sample_last : bool
        Whether "cd" draws the visible units of the last step, or takes their means, which carry less noise.
    chains : int
        Number of chains of "pcd" and "pt", at each temperature.
    temperatures : int
        Number of temperatures of "pt".
    sparsity : {"none", "lee", "hinton"}
        Pull the mean activation of each map to a target: by its bias (Lee et al. 2009); or, with the running mean, by
        its bias and filter (Hinton 2010, section 11).
    sparsity_target : float
        The target.
    sparsity_weight : float
        Factor of the pull, beside the gradient.
    centered : bool
        Follow the gradient of the centered RBM (Montavon and Mueller 2012), which depends less on which values the
        units call zero.
    max_norm : float, optional
        Greatest L2 norm of a filter, restored after each update.
    """

    activations = ("sigmoid", "relu")

    filter_init: FilterInit = "random"
    visible: Literal["gaussian", "bernoulli"] = "gaussian"
    variance: Annotated[Literal["fixed", "learned"], OnlyWith("visible", "gaussian")] = "fixed"
    sampler: Literal["cd", "pcd", "pt"] = "cd"
    gibbs_steps: Count = 1
    sample_last: Annotated[bool, OnlyWith("sampler", "cd")] = False
    chains: Annotated[Count, OnlyWith("sampler", "pcd", "pt")] = 100
    temperatures: Annotated[int, In(ge=2), OnlyWith("sampler", "pt")] = 10
    sparsity: Literal["none", "lee", "hinton"] = "none"
    sparsity_target: Annotated[Share, OnlyWith("sparsity", "lee", "hinton")] = 0.05
    sparsity_weight: Annotated[NonNegative, OnlyWith("sparsity", "lee", "hinton")] = 1.0
    centered: bool = False
    max_norm: Annotated[float, In(ge=1e-6)] | None = None

    def contradictions(self) -> Iterator[str]:
        """Yield a line when a variance cannot be learned."""
        if self.variance == "learned" and (
            self.visible != "gaussian" or (self.sampler == "cd" and not self.sample_last)
        ):
            yield (
                "variance=learned needs visible=gaussian, and sample_last=true with sampler=cd: means have no variance."
            )

    def layer_problems(self, layer: LayerSettings) -> Iterator[str]:
        """Yield a line when the filters leave out positions."""
        if layer.stride != 1:
            yield f"layer.stride={layer.stride}: the filters of an RBM take every position; give 1."


@dataclass(frozen=True)
class KMeansSettings(KindSettings):
    """The settings of `KMeans`.

    Attributes
    ----------
    activity : float
        The share of positions at which a map of a "relu" layer is active.
    whitening : float
        What is added to the variances that whitening divides by, as a share of their mean: the greater it is, the less
        fine detail and noise count.
    patches : int
        Patches drawn from a batch, at random from all of its images, as a multiple of their number.
    """

    activations = ("relu", "triangle")
    # At 1 a centroid jumps to the mean of its patches, and beyond it overshoots.
    greatest_rate = 1.0

    activity: Annotated[Inner, OnlyWith("layer.activation", "relu")] = 0.25
    whitening: Annotated[float, In(ge=1e-6)] = 0.1
    patches: Count = 16


@dataclass(frozen=True)
class SoftHebbSettings(KindSettings):
    """The settings of `SoftHebb`.

    Attributes
    ----------
    temperature : float
        The temperature of the softmax: the higher it is, the softer the competition.
    radius : float
        Norm of the filters at the start; far from 1, so that they learn fast.
    """

    activations = ("triangle",)

    temperature: Annotated[float, In(ge=1e-3)] = 1.0
    radius: Annotated[float, In(ge=1e-3)] = 25.0


@dataclass(frozen=True)
class ContrastiveSettings(KindSettings):
    """The settings of `Contrastive`.

    Attributes
    ----------
    loss : {"info_nce", "vicreg"}
        Find the other view of an image among those of the batch; or have both views agree while features vary and are
        uncorrelated. See `pretrain.stages.contrastive_losses`.
    loss_per : {"image", "position"}
        One loss of the mean over positions, or the mean of a loss at each position.
    temperature : float
        The temperature of "info_nce".
    grid_size : int
        Positions along a side of the grid that the projection head sees; fewer where the layer puts out fewer.
    projection_hidden, projection_size : int
        Hidden units of the projection head, and numbers that it puts out.
    views : ViewSettings, optional
        How views are made; by default as `ViewSettings()` says.
    """

    activations = tuple(each for each in ACTIVATIONS if each != "zero_bias_relu")

    loss: Literal["info_nce", "vicreg"] = "info_nce"
    loss_per: Literal["image", "position"] = "image"
    temperature: Annotated[float, In(ge=1e-3), OnlyWith("loss", "info_nce")] = 0.2
    grid_size: Count = 4
    projection_hidden: Annotated[int, In(ge=1, le=65536)] = 256
    projection_size: Annotated[int, In(ge=1, le=65536)] = 64
    views: ViewSettings | None = None


SHIPPED: dict[str, type[KindSettings]] = {
    "ConvAutoencoder": ConvAutoencoderSettings,
    "ConvRBM": ConvRBMSettings,
    "Contrastive": ContrastiveSettings,
    "KMeans": KMeansSettings,
    "SoftHebb": SoftHebbSettings,
}


def settings_of(target: str) -> type[KindSettings]:
    """Return the dataclass of the settings of a kind of stage: of one's own kind, the keywords of its class.

    Raises
    ------
    UserError
        When there is no such kind of stage.
    """
    package, _, name = str(target).rpartition(".")
    if package.split(".")[0] == "pretrain" and name in SHIPPED:
        return SHIPPED[name]
    keywords = [*inspect.signature(stage_class(target), eval_str=True).parameters.values()][1:]
    return make_dataclass(
        f"{name}Settings", [_field_of(each) for each in keywords], bases=(KindSettings,), frozen=True, kw_only=True
    )


def _field_of(keyword: inspect.Parameter) -> tuple[str, Any, Any]:
    """Return the name, the type and the default of a keyword, as a field of a dataclass."""
    hint = Any if keyword.annotation is keyword.empty else keyword.annotation
    default = field() if keyword.default is keyword.empty else field(default_factory=lambda: keyword.default)
    return keyword.name, hint, default


def stage_class(target: str) -> type[Any]:
    """Return the kind of stage that `_target_` names.

    Raises
    ------
    UserError
        When there is no such class, or it is no kind of stage.
    """
    # This loads torch, as the class of a stage does.
    base = get_class("pretrain.stages.base.Stage")
    try:
        found = get_class(target)
    except Exception:
        # Hydra raises several kinds of error; each means that there is no such class.
        raise UserError(f"_target_={target} is no kind of stage: there is no such class.") from None
    if not issubclass(found, base):
        raise UserError(f"_target_={target} is no kind of stage: it must be a subclass of pretrain.Stage.")
    return found

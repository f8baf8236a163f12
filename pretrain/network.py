"""The ConvNet [INPUT - CONV - RELU - POOL] x k - FC, and how trained stages become one."""

import copy
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from pretrain.errors import UserError, require_between
from pretrain.preprocessing import Standardise, unfitted
from pretrain.runs import load_data
from pretrain.seeding import generator, seeded
from pretrain.stack import SAMPLE, Stack
from pretrain.stages import Layer
from pretrain.volume import layer_rows


class ConvNet(nn.Module):
    """Preprocessed input, a stack of layers, and a fully connected head with dropout.

    Parameters
    ----------
    preprocessing : Standardise or Whiten
        Fitted to unlabelled images alone.
    layers : sequence of Layer
        From the input upwards.
    image_shape : tuple of int
        (C, H, W) of the images.
    classes : sequence of str
        Names of the classes, in the order of the labels.

    Raises
    ------
    UserError
        When a filter or a pooling window does not fit its input.
    """

    def __init__(
        self,
        preprocessing: Standardise,
        layers: Iterable[Layer],
        image_shape: tuple[int, int, int],
        classes: Sequence[str],
    ):
        super().__init__()
        self.image_shape, self.classes = tuple(image_shape), tuple(classes)
        self.preprocessing = preprocessing
        self.layers = nn.Sequential(*layers)
        features = nn.Sequential(self.layers, nn.Flatten())
        width = layer_rows(features, self.image_shape)[-1].shape[0]
        fc = nn.Linear(width, len(self.classes))
        nn.init.zeros_(fc.bias)
        self.head = nn.Sequential(OrderedDict(flatten=nn.Flatten(), dropout=nn.Dropout(), fc=fc))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, (N, classes), of images, (N, C, H, W): uint8, or floating-point in [0, 1]."""
        return self.head(self.layers(self.preprocessing(images)))

    @torch.no_grad()
    def predict_proba(self, images: Tensor, batch_size: int = 500) -> Tensor:
        """Return class probabilities, (N, classes), of images as `forward` takes them; dropout is off."""
        was_training, device = self.training, next(self.parameters()).device
        self.eval()
        logits = [
            self(batch.to(device).contiguous(memory_format=torch.channels_last)).float().cpu()
            for batch in images.split(batch_size)
        ]
        self.train(was_training)
        return torch.cat(logits).softmax(dim=1)

    def save(self, path: str | Path) -> None:
        """Write architecture and weights: tensors and plain values alone."""
        architecture = {
            "preprocessing": self.preprocessing.settings,
            "layers": [layer.settings for layer in self.layers],
            "image_shape": self.image_shape,
            "classes": self.classes,
        }
        torch.save({"architecture": architecture, "state": self.state_dict()}, path)

    @classmethod
    def load(cls, path: str | Path) -> "ConvNet":
        """Read a network that `save` wrote, in eval mode. Nothing in the file is executed.

        Raises
        ------
        UserError
            When the file is damaged or holds something else.
        """
        loaded = load_data(Path(path))
        try:
            checkpoint = dict(loaded)
            architecture, state = checkpoint["architecture"], checkpoint["state"]
            preprocessing = unfitted(**architecture["preprocessing"])
            layers = [Layer(**settings) for settings in architecture["layers"]]
            network = cls(preprocessing, layers, architecture["image_shape"], architecture["classes"])
            network.load_state_dict(state)
        except Exception as error:  # of many kinds, since the file may hold anything
            raise UserError(f"{path} does not hold a network ({type(error).__name__}: {error}).") from None
        return network.eval()

    def predict(self, images: Tensor) -> list[str]:
        """Return the most probable class of each image, by name."""
        return [self.classes[k] for k in self.predict_proba(images).argmax(dim=1).tolist()]


def set_trainable(module: nn.Module, trainable: bool) -> None:
    """Freeze a module's parameters, or unfreeze them."""
    for parameter in module.parameters():
        parameter.requires_grad_(trainable)


@torch.no_grad()
def normalise_layers(layers: Iterable[Layer], inputs: Tensor, how: str) -> None:
    """Normalise each layer in turn, on inputs of the first, (N, C, H, W)."""
    for layer in layers:
        layer.normalise(inputs, how)
        inputs = layer(inputs)


def assemble(
    stack: Stack,
    classes: Sequence[str],
    *,
    seed: int,
    pretrained: bool = True,
    upto: int | None = None,
    unlabelled: Tensor | None = None,
) -> ConvNet:
    """Copy the layers of a stack into a ConvNet with a new fully connected head.

    Parameters
    ----------
    stack : Stack
        Left as it is.
    classes : sequence of str
        Names of the classes, in the order of the labels.
    seed : int
        Names the draw of the head's weights and, from scratch, of the layers'. The head is the same for both.
    pretrained : bool
        Keep what the layers learnt; otherwise give them a standard initialisation: the from-scratch network,
        the same graph in all else.
    upto : int, optional
        Of pretrained layers, keep what the first so many learnt, and give those above a standard initialisation;
        None keeps all.
    unlabelled : Tensor, optional
        Images (N, C, H, W). Given, the layers that start from scratch are normalised on a sample of them, in the
        same way as the stack's trained ones.

    Returns
    -------
    ConvNet
        Pretrained, its layers compute the same function as those of the stages one after the other.

    Raises
    ------
    UserError
        When the stack has fewer layers than `upto`.
    """
    if upto is not None:
        require_between("upto", upto, 0, len(stack))
    kept = (len(stack) if upto is None else upto) if pretrained else 0
    preprocessing = copy.deepcopy(stack.preprocessing)
    layers = [copy.deepcopy(stage.layer) for stage in stack]
    for position, layer in enumerate(layers[kept:], kept):
        with seeded(seed, "initialise", position):
            layer.reset_parameters()
    if kept < len(layers) and unlabelled is not None:
        sample = torch.randperm(len(unlabelled), generator=generator(seed, "initialise", "sample"))[:SAMPLE]
        with torch.no_grad():
            below = nn.Sequential(preprocessing, *layers[:kept])(unlabelled[sample].to(preprocessing.mean.device))
        normalise_layers(layers[kept:], below, stack.normalisation)
    with seeded(seed, "initialise", "head"):
        network = ConvNet(preprocessing, layers, stack.image_shape, classes)
    for layer in layers:
        layer.fold_scale()
    return network

"""The ConvNet [INPUT - CONV - RELU - POOL] x k - FC."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from pretrain.errors import UserError
from pretrain.network.dropout import Dropout
from pretrain.network.layer import Layer
from pretrain.network.preprocessing import Images, Standardize
from pretrain.network.shapes import LayerRow, layer_rows
from pretrain.network.whitening import unfitted
from pretrain.runs.tensor_files import load_state, save_state


class ConvNet(nn.Module):
    """Preprocessed input, a stack of layers, and a fully connected head with dropout.

    Parameters
    ----------
    preprocessing : Standardize or Whiten
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
        preprocessing: Standardize,
        layers: Iterable[Layer],
        image_shape: tuple[int, int, int],
        classes: Sequence[str],
    ):
        super().__init__()
        self.image_shape, self.classes = tuple(image_shape), tuple(classes)
        self.preprocessing = preprocessing
        layers = list(layers)
        self.layer_settings = [layer.settings for layer in layers]
        self.layers = nn.Sequential(*layers)
        flatten = next(row for row in self.rows if row.kind == "flatten")
        fc = nn.Linear(flatten.shape[0], len(self.classes))
        nn.init.zeros_(fc.bias)
        self.head = nn.Sequential(OrderedDict(flatten=nn.Flatten(), dropout=Dropout(), fc=fc))

    @property
    def rows(self) -> list[LayerRow]:
        """The layer table: volumes, parameters and multiply-adds of each part."""
        layers = {f"layers.{k}": settings for k, settings in enumerate(self.layer_settings)}
        preprocessing, classes = self.preprocessing.settings["kind"], len(self.classes)
        return layer_rows(layers, self.image_shape, preprocessing=preprocessing, classes=classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, (N, classes), of images, (N, C, H, W): uint8, or floating-point in [0, 1]."""
        return self.head(self.layers(self.preprocessing(images)))

    @torch.no_grad()
    def predict_proba(self, images: Images, batch_size: int = 500) -> Tensor:
        """Return class probabilities, (N, classes), of images as `forward` takes them; dropout is off.

        Raises
        ------
        UserError
            When they are no finite numbers, as those of a network that diverged.
        """
        was_training, device = self.training, next(self.parameters()).device
        self.eval()
        logits = [
            self(batch.to(device).contiguous(memory_format=torch.channels_last)).float().cpu()
            for batch in images.split(batch_size)
        ]
        self.train(was_training)
        probabilities = torch.cat(logits).softmax(dim=1)
        if not probabilities.isfinite().all():
            raise UserError("the network's output is not a finite number: it diverged in training.")
        return probabilities

    def save(self, path: str | Path) -> None:
        """Write architecture and weights as a safetensors file, which carries a digest of its content."""
        architecture = {
            "preprocessing": self.preprocessing.settings,
            "layers": [asdict(settings) for settings in self.layer_settings],
            "image_shape": self.image_shape,
            "classes": self.classes,
        }
        save_state(Path(path), {"architecture": architecture, "state": self.state_dict()})

    @classmethod
    def load(cls, path: str | Path) -> "ConvNet":
        """Read a network that `save` wrote, in eval mode. Nothing in the file is executed.

        Raises
        ------
        UserError
            When the file is damaged or holds something else.
        """
        saved = load_state(Path(path))
        try:
            architecture = dict(saved["architecture"])
            preprocessing = unfitted(**architecture["preprocessing"])
            layers = [Layer(**settings) for settings in architecture["layers"]]
            network = cls(preprocessing, layers, tuple(architecture["image_shape"]), architecture["classes"])
            network.load_state_dict(saved["state"])
        except Exception as error:
            # The file may hold anything, so errors of many kinds are possible.
            raise UserError(f"{path} does not hold a network ({type(error).__name__}: {error}).") from None
        return network.eval()

    def predict(self, images: Tensor) -> list[str]:
        """Return the most probable class of each image, by name."""
        return [self.classes[k] for k in self.predict_proba(images).argmax(dim=1).tolist()]


def set_trainable(module: nn.Module, trainable: bool) -> None:
    """Freeze a module's parameters, or unfreeze them."""
    for parameter in module.parameters():
        parameter.requires_grad_(trainable)

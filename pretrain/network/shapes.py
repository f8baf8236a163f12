"""Output-volume arithmetic: sizes, parameters and multiply-adds of each layer of a network, without importing torch."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from pretrain.errors import UserError, choose
from pretrain.network.layer_settings import LayerSettings, SlidingWindow

Shape = tuple[int, ...]
Preprocessing = Literal["standardize", "whiten", "contrast_standardize", "contrast_whiten", "none"]
PREPROCESSINGS: tuple[str, ...] = get_args(Preprocessing)
WHITENING_SIDE = 9  # pixels: on CIFAR-10 the outermost weights are below 1% of the central one


def output_size(width: int, filter_size: int, stride: int = 1, padding: int = 0) -> int:
    """Return how many positions a filter takes along one side: (W - F + 2P) / S + 1.

    Parameters
    ----------
    width : int
        W, the side of the input in pixels, at least 1.
    filter_size : int
        F, the side of the filter (its receptive field) in pixels.
    stride : int
        S, the step from one position to the next.
    padding : int
        P, the zeros added on each side.

    Raises
    ------
    UserError
        When the filter is wider than the padded input, or when the positions do not come out whole.
    """
    span = width - filter_size + 2 * padding
    setting = f"{width} wide, filter {filter_size}, stride {stride}, {padding or 'no'} padding"
    if span < 0:
        raise UserError(f"{setting}: the filter is wider than the padded input ({width + 2 * padding} wide).")
    if span % stride:
        raise UserError(
            f"{setting}: the positions do not come out whole; ({width} - {filter_size} + {2 * padding}) / {stride} "
            f"+ 1 = {span / stride + 1:.4g}. {_nearest_fits(width, filter_size, stride, padding)}"
        )
    return span // stride + 1


def _nearest_fits(width: int, filter_size: int, stride: int, padding: int) -> str:
    """Name the nearest value of each setting that would fit with the others as they are."""

    def nearest(value: int, candidates: list[int]) -> str:
        closest = min((abs(c - value) for c in candidates), default=None)
        return " or ".join(str(c) for c in candidates if abs(c - value) == closest)

    span = width - filter_size + 2 * padding
    fits = {
        "stride": nearest(stride, [s for s in range(1, span + 1) if span % s == 0]),
        "filter": nearest(filter_size, [f for f in range(1, width + 1) if (width - f + 2 * padding) % stride == 0]),
        "padding": nearest(padding, [p for p in range(filter_size) if (width - filter_size + 2 * p) % stride == 0]),
        "width": nearest(
            width,
            [w for w in range(filter_size, width + stride + 1) if (w - filter_size + 2 * padding) % stride == 0],
        ),
    }
    return "These would fit: " + "; ".join(f"{name} {value}" for name, value in fits.items() if value) + "."


@dataclass(frozen=True)
class LayerRow:
    """One line of the layer table.

    Attributes
    ----------
    name, kind : str
        The module's path in the network, and what it does with its sizes.
    shape : tuple of int
        Output volume (C, H, W), or (features,) after flattening.
    parameters : int
        Number of learned values.
    multiply_adds : int
        Multiplications with an addition, for one image, forward.
    """

    name: str
    kind: str
    shape: Shape
    parameters: int = 0
    multiply_adds: int = 0


def layer_rows(
    layers: Mapping[str, LayerSettings],
    image_shape: Shape,
    *,
    preprocessing: str | None = None,
    classes: int | None = None,
) -> list[LayerRow]:
    """Return a row for each module of a network, in the order of computation.

    Parameters
    ----------
    layers : mapping of str to LayerSettings
        The layers by name, from the input upwards.
    image_shape : tuple of int
        The volume (C, H, W) of one image.
    preprocessing : str, optional
        One of `PREPROCESSINGS`; None leaves its row out.
    classes : int, optional
        Number of classes of the fully connected head; None leaves its rows out.

    Raises
    ------
    UserError
        When a filter or a pooling window does not fit its input, or there is no such preprocessing; the layer is named.
    """
    rows = [] if preprocessing is None else [_preprocessing_row(preprocessing, image_shape)]
    shape = image_shape
    for name, settings in layers.items():
        rows += _rows_of_layer(name, settings, shape)
        shape = rows[-1].shape
    return rows if classes is None else [*rows, *_head_rows(shape, classes)]


def whitening_side(image_shape: Shape) -> int:
    """Return the side of the whitening filters: odd, and about half as wide as the image at most."""
    return min(WHITENING_SIDE, min(image_shape[1:]) // 2 | 1)


def _preprocessing_row(name: str, image_shape: Shape) -> LayerRow:
    choose("stack.preprocessing", name, PREPROCESSINGS)
    if not name.endswith("whiten"):
        return LayerRow("preprocessing", "standardize", image_shape)
    side = whitening_side(image_shape)
    kernel = (image_shape[0] * side) ** 2
    return LayerRow("preprocessing", f"whiten {side}x{side}", image_shape, 0, kernel * math.prod(image_shape[1:]))


def _rows_of_layer(name: str, settings: LayerSettings, shape: Shape) -> Iterator[LayerRow]:
    """Return the rows of the convolution, the activation and the pooling of one layer."""
    filters, (side, stride, padding) = settings.out_channels, settings.convolution
    if settings.in_channels != shape[0]:
        raise UserError(f"{name}.conv: it takes {settings.in_channels} channels, but {shape[0]} come from below.")
    convolved = (filters, *_positions(f"{name}.conv", shape, settings.convolution))
    if side > min(shape[1:]) + padding:
        width = min(shape[1:])
        raise UserError(
            f"{name}.conv: filters of side {side} with padding {padding} have weights that no pixel of an input "
            f"{width} wide reaches: give a kernel_size of at most {width + padding}."
        )
    weights = filters * settings.in_channels * side**2
    parameters = weights + filters * settings.has_bias
    kind = f"conv {side}x{side}, {filters} filters, stride {stride}, pad {padding}"
    yield LayerRow(f"{name}.conv", kind, convolved, parameters, weights * math.prod(convolved[1:]))
    yield LayerRow(f"{name}.activation", _activation_kind(settings), convolved)
    pooled = (filters, *_positions(f"{name}.pool", convolved, settings.pool))
    yield LayerRow(f"{name}.pool", _pool_kind(settings), pooled)


def _positions(name: str, shape: Shape, window: SlidingWindow) -> list[int]:
    """Return how many positions a window takes along each side of a volume; errors name the layer."""
    try:
        return [output_size(side, *window) for side in shape[1:]]
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _activation_kind(settings: LayerSettings) -> str:
    if settings.pooling == "probabilistic":
        # The pooling starts from the inputs of the units.
        return "identity"
    return {"zero_bias_relu": "relu", "scaled_tanh": "scaledtanh"}.get(settings.activation, settings.activation)


def _pool_kind(settings: LayerSettings) -> str:
    side, stride, padding = settings.pool
    if side == 1 and settings.pooling != "probabilistic":
        return "identity"
    name = {"max": "max", "average": "mean", "probabilistic": "probabilistic max"}[settings.pooling]
    return f"{name}-pool {side}x{side}, stride {stride}" + (f", pad {padding}" if padding else "")


def _head_rows(shape: Shape, classes: int) -> list[LayerRow]:
    """Return the rows of the head on a volume (C, H, W)."""
    features = math.prod(shape)
    return [
        LayerRow("head.flatten", "flatten", (features,)),
        LayerRow("head.dropout", "dropout", (features,)),
        LayerRow("head.fc", f"fully connected, {classes}", (classes,), (features + 1) * classes, features * classes),
    ]


def format_rows(rows: list[LayerRow], input_shape: Shape) -> str:
    """Return the layer table as text, with a line of totals."""

    def volume(shape: Shape) -> str:
        return "x".join(str(side) for side in (*shape[1:], shape[0]))

    table = [("layer", "what", "output volume", "parameters", "multiply-adds")]
    table += [("input", "image", volume(input_shape), "0", "0")]
    table += [(row.name, row.kind, volume(row.shape), f"{row.parameters:,}", f"{row.multiply_adds:,}") for row in rows]
    totals = (f"{sum(r.parameters for r in rows):,}", f"{sum(r.multiply_adds for r in rows):,}")
    table += [("total", "", "", *totals)]
    widths = [max(len(line[column]) for line in table) for column in range(5)]
    aligned = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]
    rule = "-" * len(aligned[0])
    return "\n".join([aligned[0], rule, *aligned[1:-1], rule, aligned[-1]])

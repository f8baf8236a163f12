"""Output-volume arithmetic of a convolutional network: sizes, parameters and multiply-adds of each layer."""

from dataclasses import dataclass

from torch import nn

from pretrain.errors import UserError
from pretrain.network.whitening import Whiten

Shape = tuple[int, ...]


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
        Learnt numbers.
    multiply_adds : int
        Multiplications with an addition, for one image, forward.
    """

    name: str
    kind: str
    shape: Shape
    parameters: int
    multiply_adds: int


def layer_rows(network: nn.Module, input_shape: Shape) -> list[LayerRow]:
    """Return a row for each leaf module of a network whose modules run one after the other.

    Parameters
    ----------
    network : nn.Module
        Its leaf modules, in the order of registration, are the order of computation.
    input_shape : tuple of int
        The volume (C, H, W) of one image.

    Raises
    ------
    UserError
        When a filter or a pooling window does not fit its input, or is of a kind that is not described; the layer is
        named.
    """
    rows = []
    shape = input_shape
    for name, module in network.named_modules(remove_duplicate=False):
        if next(module.children(), None) is not None:
            continue
        try:
            kind, shape, multiply_adds = _pass_through(module, shape)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        parameters = sum(p.numel() for p in module.parameters())
        rows.append(LayerRow(name, kind, shape, parameters, multiply_adds))
    return rows


def _pass_through(module: nn.Module, shape: Shape) -> tuple[str, Shape, int]:
    """Return what a module is, its output volume, and its multiply-adds for one image."""
    match module:
        case nn.Conv2d():
            filter_size, stride, padding = _square(module.kernel_size), _square(module.stride), module.padding
            if not isinstance(padding, tuple):
                raise UserError(f"padding {padding!r} is not a number of pixels; give one.")
            if _square(module.dilation) > 1:
                raise UserError(f"dilation {_square(module.dilation)}: only filters without gaps are described.")
            if module.in_channels != shape[0]:
                raise UserError(f"it takes {module.in_channels} channels, but {shape[0]} come from below.")
            sides = [output_size(side, filter_size, stride, _square(padding)) for side in shape[1:]]
            weights = module.weight.numel()
            kind = (
                f"conv {filter_size}x{filter_size}, {module.out_channels} filters, stride {stride}, "
                f"pad {_square(padding)}"
            )
            return kind, (module.out_channels, *sides), weights * sides[0] * sides[1]
        case nn.MaxPool2d() | nn.AvgPool2d():
            filter_size, stride = _square(module.kernel_size), _square(module.stride)
            border = _square(module.padding)
            sides = [output_size(side, filter_size, stride, border) for side in shape[1:]]
            name = getattr(module, "of", "max" if isinstance(module, nn.MaxPool2d) else "mean")
            padded = f", pad {border}" if border else ""
            return f"{name}-pool {filter_size}x{filter_size}, stride {stride}{padded}", (shape[0], *sides), 0
        case Whiten():
            side = module.kernel.shape[-1]
            return f"whiten {side}x{side}", shape, module.kernel.numel() * shape[1] * shape[2]
        case nn.Flatten():
            features = 1
            for side in shape:
                features *= side
            return "flatten", (features,), 0
        case nn.Linear():
            return f"fully connected, {module.out_features}", (module.out_features,), module.weight.numel()
        case _:
            return type(module).__name__.lower(), shape, 0


def _square(size: int | tuple[int, ...]) -> int:
    """Return the side of a square window."""
    if isinstance(size, int):
        return size
    if len(set(size)) > 1:
        raise UserError(f"the window {size} is not square; only square filters and pools are described.")
    return size[0]


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

"""The gradient of the centered restricted Boltzmann machine."""

from torch import Tensor


def centered_gradient(
    gradient: dict[str, Tensor], hidden_mean: Tensor, visible_mean: Tensor, gain: Tensor, overlap: float
) -> dict[str, Tensor]:
    """Return the gradient that the machine written in centered units would have followed, in its usual parameters.

    With ``W * (v - m) + b'`` and ``W~ * (h - l) + c'``, descent on (W, b', c') is descent on (W, b, c) by
    ``gW' = gW - gb m - l gc``, ``gb' = gb - gW' m`` and ``gc' = gc - gW' l``, summed over the filter. One bias a
    channel can follow the hidden offsets of an average pixel alone, which a share of the positions of a filter sees.

    Parameters
    ----------
    gradient : dict of str to Tensor
        As `RBM.gradient` gives it.
    hidden_mean, visible_mean : Tensor, (K,), (C,)
        l and m.
    gain : Tensor, (C,)
        What a field of one is worth beside the visible bias: sigma^2, or 1 for units of 0 and 1.
    overlap : float
        Positions of a filter over pixels: 1 where the padding keeps the size, 1 / (H W) in a dense machine.

    References
    ----------
    Montavon and Mueller (2012), Deep Boltzmann machines and the centering trick; Melchior, Fischer and Wiskott (2016),
    How to center deep Boltzmann machines, JMLR 17, section 4.
    """
    hidden, visible = gradient["hidden_bias"], gradient["visible_bias"]
    offset = overlap * hidden_mean[:, None] * gain  # (K, C), what a hidden map's offset adds, through a weight of one
    shift = hidden[:, None] * visible_mean + offset * visible
    weight = gradient["weight"] - shift[:, :, None, None]
    total = weight.sum(dim=(2, 3))  # (K, C)
    return {
        **gradient,
        "weight": weight,
        "hidden_bias": hidden - (total * visible_mean).sum(dim=1),
        "visible_bias": visible - (total * offset).sum(dim=0),
    }

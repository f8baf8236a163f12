"""The gradient of the centered restricted Boltzmann machine."""

from torch import Tensor


def centered_gradient(
    gradient: dict[str, Tensor], hidden_mean: Tensor, visible_mean: Tensor, gain: Tensor, overlap: float
) -> dict[str, Tensor]:
    """Return the gradient that the RBM written in centered units would follow, in its usual parameters.

    With ``W * (v - m) + b'`` and ``W~ * (h - l) + c'``, descent on (W, b', c') is descent on (W, b, c) by
    ``gW' = gW - gb m - l gc``, ``gb' = gb - gW' m`` and ``gc' = gc - gW' l``, summed over the filter. One bias for
    each channel can only follow the hidden offsets of an average pixel, which a share of the filter's positions see.

    Parameters
    ----------
    gradient : dict of str to Tensor
        As `RBM.gradient` gives it.
    hidden_mean, visible_mean : Tensor, (K,), (C,)
        l and m.
    gain : Tensor, (C,)
        How much a field of one changes the mean of a visible unit: sigma^2, or 1 for units of 0 and 1.
    overlap : float
        Number of positions of a filter over number of pixels: 1 where the padding keeps the size, 1 / (H W) in a dense
        RBM.

    References
    ----------
    Montavon and Mueller (2012), Deep Boltzmann machines and the centering trick; Melchior, Fischer and Wiskott (2016),
    How to center deep Boltzmann machines, JMLR 17, section 4.
    """
    hidden, visible = gradient["hidden_bias"], gradient["visible_bias"]
    # The offset of a hidden map shifts a visible unit by so much, through a weight of one.
    offset = overlap * hidden_mean[:, None] * gain  # (K, C)
    shift = hidden[:, None] * visible_mean + offset * visible
    weight = gradient["weight"] - shift[:, :, None, None]
    total = weight.sum(dim=(2, 3))  # (K, C)
    return {
        **gradient,
        "weight": weight,
        "hidden_bias": hidden - (total * visible_mean).sum(dim=1),
        "visible_bias": visible - (total * offset).sum(dim=0),
    }

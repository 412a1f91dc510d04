"""Figure 4: what part of the loss the easiest anchors have, of those with an object and without."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from ..cumulative import KINDS, Numbers
from .style import COLOURS, DASHES, panels


def figure(numbers: Numbers) -> Figure:
    """Of what `cumulative_losses` found."""
    titles = [f"{numbers['anchors'][kind]:,} {kind} anchors" for kind in KINDS]
    drawn, axes = panels(*titles, height=3.4)
    for kind, panel in zip(KINDS, axes, strict=True):
        for row, colour, dashes in zip(numbers["gammas"], COLOURS, DASHES, strict=False):
            curve = row[kind]["curve"]
            name = f"γ = {row['gamma']:g}"
            x = np.linspace(0, 1, len(curve))
            panel.plot(x, curve, color=colour, linestyle=dashes, label=name)
        panel.set(xlabel=f"fraction of {kind} anchors, by rising loss", xlim=(0, 1), ylim=(0, 1))
        panel.legend(loc="upper left")
    axes[0].set_ylabel("part of their loss")
    return drawn

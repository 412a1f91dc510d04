"""What the paper got: Lin et al. 2017, "Focal Loss for Dense Object Detection", arXiv 1708.02002.

Copied from its tables, AP in percent. Trained on COCO trainval35k; Tables 1a to 1d (page 6) are on
minival, Table 1e (page 6), Table 2 (page 8) and Figure 2 (page 2) on test-dev. ResNet-50-FPN, 600
pixels, gamma 2, 3 scales and 3 aspect ratios, unless the key says otherwise.
"""

from __future__ import annotations

from typing import NamedTuple


class Accuracy(NamedTuple):
    ap: float
    ap50: float
    ap75: float


class Timed(NamedTuple):
    """Accuracy, and the time of an image."""

    ap: float
    milliseconds: float


# Table 1a: cross entropy balanced by alpha.
CE_ALPHA = {
    0.10: Accuracy(0.0, 0.0, 0.0),
    0.25: Accuracy(10.8, 16.0, 11.7),
    0.50: Accuracy(30.2, 46.7, 32.8),
    0.75: Accuracy(31.1, 49.4, 33.0),
    0.90: Accuracy(30.8, 49.7, 32.3),
    0.99: Accuracy(28.7, 47.4, 29.9),
    0.999: Accuracy(25.1, 41.7, 26.1),
}

# Table 1b: focal loss by (gamma, alpha), the best alpha of each gamma.
FL_GAMMA = {
    (0.0, 0.75): Accuracy(31.1, 49.4, 33.0),
    (0.1, 0.75): Accuracy(31.4, 49.9, 33.1),
    (0.2, 0.75): Accuracy(31.9, 50.7, 33.4),
    (0.5, 0.50): Accuracy(32.9, 51.7, 35.2),
    (1.0, 0.25): Accuracy(33.7, 52.0, 36.2),
    (2.0, 0.25): Accuracy(34.0, 52.5, 36.5),
    (5.0, 0.25): Accuracy(32.2, 49.6, 34.8),
}

# Table 1c: anchors at a position, by (scales, aspect ratios).
ANCHORS = {
    (1, 1): Accuracy(30.3, 49.0, 31.8),
    (2, 1): Accuracy(31.9, 50.0, 34.0),
    (3, 1): Accuracy(31.8, 49.4, 33.7),
    (1, 3): Accuracy(32.4, 52.3, 33.9),
    (2, 3): Accuracy(34.2, 53.1, 36.5),
    (3, 3): Accuracy(34.0, 52.5, 36.5),
    (4, 3): Accuracy(33.8, 52.1, 36.2),
}

# Table 1d: online hard example mining by (batch, NMS threshold), ResNet-101.
OHEM = {
    (128, 0.7): Accuracy(31.1, 47.2, 33.2),
    (256, 0.7): Accuracy(31.8, 48.8, 33.9),
    (512, 0.7): Accuracy(30.6, 47.0, 32.6),
    (128, 0.5): Accuracy(32.8, 50.3, 35.1),
    (256, 0.5): Accuracy(31.0, 47.4, 33.0),
    (512, 0.5): Accuracy(27.6, 42.0, 29.2),
}
OHEM_1TO3 = {
    (128, 0.5): Accuracy(31.1, 47.2, 33.2),
    (256, 0.5): Accuracy(28.3, 42.4, 30.3),
    (512, 0.5): Accuracy(24.0, 35.5, 25.8),
}
OHEM_FOCAL = Accuracy(36.0, 54.9, 38.7)  # gamma 2, alpha .25

# Table 1e: by (depth of the ResNet, shorter side in pixels); times on an M40.
# (Figure 2 says 73 ms for what stands here with 72.)
SPEED_ACCURACY = {
    (50, 400): Timed(30.5, 64),
    (50, 500): Timed(32.5, 72),
    (50, 600): Timed(34.3, 98),
    (50, 700): Timed(35.1, 121),
    (50, 800): Timed(35.7, 153),
    (101, 400): Timed(31.9, 81),
    (101, 500): Timed(34.4, 90),
    (101, 600): Timed(36.0, 122),
    (101, 700): Timed(37.1, 154),
    (101, 800): Timed(37.8, 198),
}

# The legend of Figure 2, whose times are those that were public: FPN's is of an M40 (section 5.2),
# R-FCN's is extrapolated.
FIGURE_2 = {
    "YOLOv2": Timed(21.6, 25),
    "SSD321": Timed(28.0, 61),
    "DSSD321": Timed(28.0, 85),
    "R-FCN": Timed(29.9, 85),
    "SSD513": Timed(31.2, 125),
    "DSSD513": Timed(33.2, 156),
    "FPN FRCN": Timed(36.2, 172),
}

# Table 2: single models.
TABLE_2 = {
    "Faster R-CNN+++, ResNet-101-C4": Accuracy(34.9, 55.7, 37.4),
    "Faster R-CNN w FPN, ResNet-101-FPN": Accuracy(36.2, 59.1, 39.0),
    "Faster R-CNN by G-RMI, Inception-ResNet-v2": Accuracy(34.7, 55.5, 36.7),
    "Faster R-CNN w TDM, Inception-ResNet-v2-TDM": Accuracy(36.8, 57.7, 39.2),
    "YOLOv2, DarkNet-19": Accuracy(21.6, 44.0, 19.2),
    "SSD513, ResNet-101-SSD": Accuracy(31.2, 50.4, 33.3),
    "DSSD513, ResNet-101-DSSD": Accuracy(33.2, 53.3, 35.2),
    "RetinaNet, ResNet-101-FPN": Accuracy(39.1, 59.1, 42.3),
    "RetinaNet, ResNeXt-101-FPN": Accuracy(40.8, 61.1, 44.1),
}

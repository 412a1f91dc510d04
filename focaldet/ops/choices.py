"""The words that arguments of the operators take: as types, and as tuples to check them against."""

from typing import Literal, get_args

Reduction = Literal["none", "sum", "mean"]
LowQuality = Literal["torchvision", "mmdet", "none"]
BoxLoss = Literal["smooth_l1", "l1", "giou", "diou", "ciou"]
Normalizer = Literal["batch", "image"]
Mode = Literal["save_gradient", "recompute", "overwrite"]
SoftNms = Literal["linear", "gaussian"]

REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)
LOW_QUALITY: tuple[LowQuality, ...] = get_args(LowQuality)
BOX_LOSSES: tuple[BoxLoss, ...] = get_args(BoxLoss)
NORMALIZERS: tuple[Normalizer, ...] = get_args(Normalizer)
MODES: tuple[Mode, ...] = get_args(Mode)
SOFT_NMS: tuple[SoftNms, ...] = get_args(SoftNms)

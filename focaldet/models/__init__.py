"""RetinaNet on the operators of `focaldet.ops`."""

from .inference import for_inference
from .outputs import Detection, Detections, LossDict, Losses
from .retinanet import V2, RetinaNet
from .transform import GroundTruth

__all__ = [
    "V2",
    "Detection",
    "Detections",
    "GroundTruth",
    "LossDict",
    "Losses",
    "RetinaNet",
    "for_inference",
]

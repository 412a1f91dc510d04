"""RetinaNet on the operators of `focaldet.ops`."""

from .inference import for_inference
from .retinanet import V2, RetinaNet

__all__ = ["V2", "RetinaNet", "for_inference"]

"""RetinaNet on the operators of `focaldet.ops`."""

from .inference import for_inference
from .retinanet import RetinaNet

__all__ = ["RetinaNet", "for_inference"]

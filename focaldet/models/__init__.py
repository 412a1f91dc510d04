"""RetinaNet on the operators of `focaldet.ops`."""

from .retinanet import RetinaNet

__all__ = ["RetinaNet"]

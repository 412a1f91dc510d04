"""Weights of other packages: RetinaNets of torchvision, detectron2 and mmdetection, and bodies."""

from .body import DOWNLOAD, load_body
from .convert import Converted, convert
from .read import Source, read_source

__all__ = ["DOWNLOAD", "Converted", "Source", "convert", "load_body", "read_source"]

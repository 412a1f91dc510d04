"""`focaldet convert`."""

from __future__ import annotations

import argparse

from ..checkpoint import save_checkpoint
from ..files import read_lines
from ..weights import convert, read_source
from ..weights.convert import EPS, LAYOUTS
from ..weights.layouts import STYLES
from .common import new_file
from .parser import Parser, number

SUMMARY = "make a checkpoint from a RetinaNet of torchvision, detectron2 or mmdetection"
EXAMPLES = (
    "focaldet convert RetinaNet_R_50_FPN_3x.pkl --out coco.safetensors",
    "focaldet convert cells.pth --class-names cells.txt --out cells.safetensors",
)


def add_arguments(parser: Parser) -> None:
    add = parser.add_argument
    add("weights", metavar="FILE", help="weights, as .pth, .safetensors or .pkl")
    add("--out", required=True, metavar="FILE", help="checkpoint to write, .safetensors")
    add("--layout", choices=("auto", *LAYOUTS), default="auto", help="the package they are of")
    add(
        "--style",
        choices=STYLES,
        help="of the ResNet, whatever the file says; caffe (usual for detectron2): BGR and stride "
        "in the 1x1; pytorch (usual for mmdetection)",
    )
    add("--class-names", metavar="FILE", help="a name a line, in label order; COCO's for COCO")
    add(
        "--norm-eps",
        type=number,
        default=EPS,
        help="of the norms; 0 for retinanet_resnet50_fpn_coco-eeacb38b.pth of torchvision",
    )


def run(args: argparse.Namespace) -> None:
    out = new_file(args.out, ".safetensors")
    names = args.class_names and read_lines(args.class_names)
    converted = convert(
        read_source(args.weights),
        args.layout,
        style=args.style,
        class_names=names,
        norm_eps=args.norm_eps,
    )
    save_checkpoint(out, converted.weights, converted.description)
    backbone, names = converted.description.model["backbone"], converted.description.class_names
    some = ", ".join([*names[:3], *(["..."] if len(names) > 3 else [])])
    print(
        f"{out}: a RetinaNet of {converted.layout} on a {backbone}, {len(names)} classes ({some})"
    )

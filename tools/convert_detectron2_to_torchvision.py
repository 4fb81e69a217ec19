"""Turn a backbone that Detectron2 reads or trained into a torchvision ResNet.

python tools/convert_detectron2_to_torchvision.py backbone.pkl resnet50.pth

OUT is a bare state dict without classifier: load_state_dict(torch.load(OUT), strict=False).
"""

from __future__ import annotations

import sys
from pathlib import Path

from moco_eval import errors
from moco_eval.convert import convert
from moco_eval.encoders.load import load_encoder


def main() -> None:
    """Load, write, reload, compare; the proof is printed."""
    source, output = sys.argv[1:]
    print(convert(load_encoder(source), Path(output), "torchvision"))


if __name__ == "__main__":
    sys.exit(errors.run(main, program=Path(__file__).name, verbose=False))

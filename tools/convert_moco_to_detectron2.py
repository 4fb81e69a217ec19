"""Turn a checkpoint of MoCo into a backbone for Detectron2.

python tools/convert_moco_to_detectron2.py moco_v2_800ep_pretrain.pth.tar backbone.pkl

Takes the place of facebookresearch/moco's detection/convert-pretrain-to-detectron2.py, which
writes an empty file where names differ. OUT ends in .pkl or .pth; beside it lies OUT.yaml, the
configuration to merge. The classifier and BatchNorm's step counters are left out.
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
    print(convert(load_encoder(source), Path(output), "detectron2"))


if __name__ == "__main__":
    sys.exit(errors.run(main, program=Path(__file__).name, verbose=False))

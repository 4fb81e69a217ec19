"""Turn any encoder into a folder that timm loads, as on the Hugging Face hub.

python tools/convert_to_timm.py moco_v2_800ep_pretrain.pth.tar resnet50-mocov2

Then: timm.create_model("local-dir:resnet50-mocov2", pretrained=True). The folder holds
config.json, model.safetensors and README.md.
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
    print(convert(load_encoder(source), Path(output), "hf"))


if __name__ == "__main__":
    sys.exit(errors.run(main, program=Path(__file__).name, verbose=False))

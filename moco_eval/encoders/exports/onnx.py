"""An encoder as an ONNX graph: normalised images in, pooled features out, any number at once."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import torch
from torch import Tensor

from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.exports.export import Evidence, Export, record_of, tensors_of, write_synced
from moco_eval.encoders.reading.reader import RECORD
from moco_eval.errors import UsageError

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
INPUT, OUTPUT = "images", "features"
# ONNX Runtime has kernels of its own, and adds up in another order.
TOLERANCE = 1e-4
# The size of a protobuf, which a graph with its weights is.
LIMIT_BYTES = 2**31 - 2**20


def prepare(encoder: Encoder) -> Export:
    """One ``.onnx`` file; its metadata hold the record, and with it how the encoder is fed.

    The graph may fold one weight into another, so its outputs are what is compared.

    Raises:
        UsageError: If a package is missing, or the weights are more than one file can hold.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"--to onnx needs {' and '.join(missing)}. Install: pip install 'moco-eval[onnx]'"
        )
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors_of(encoder).values())
    if size > LIMIT_BYTES:
        raise UsageError(
            f"{encoder.arch} has {size} bytes of weights, and an ONNX file holds at most "
            f"{LIMIT_BYTES}. Take --to safetensors."
        )

    def outputs(images: Tensor) -> dict[str, Tensor]:
        return {OUTPUT: encoder.features(images)}

    return Export(
        arch=encoder.arch,
        write=lambda path: write_synced(path, graph_bytes(encoder)),
        expected=Evidence(library="moco-eval", tensors={}, outputs=outputs),
        reload=reload_in_onnxruntime,
        image_size=encoder.input.size,
        tolerance=TOLERANCE,
    )


def graph_bytes(encoder: Encoder) -> bytes:
    """The graph with its weights and metadata."""
    shape = (2, len(encoder.input.mean), encoder.input.size, encoder.input.size)
    program = torch.onnx.export(
        encoder.network,
        (torch.zeros(shape),),
        dynamo=True,
        verbose=False,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
    )
    assert program is not None, "torch.onnx.export returned nothing"
    graph = program.model_proto
    record = record_of(encoder, encoder.arch)
    fed = record["input"]
    texts = {key: json.dumps(value) for key, value in {**fed, RECORD: record}.items()}
    for key, text in texts.items():
        graph.metadata_props.add(key=key, value=text)
    return bytes(graph.SerializeToString())


def reload_in_onnxruntime(path: Path) -> Evidence:
    """The file as ONNX's checker and ONNX Runtime read it."""
    import onnx
    import onnxruntime  # type: ignore[import-untyped]

    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def outputs(images: Tensor) -> dict[str, Tensor]:
        # One at a time: the graph was drawn with two.
        found = [session.run([OUTPUT], {INPUT: image[None].numpy()})[0] for image in images]
        return {OUTPUT: torch.cat([torch.from_numpy(features) for features in found])}

    version = onnxruntime.__version__
    return Evidence(library=f"onnxruntime {version}", tensors={}, outputs=outputs)

"""Files made to run code or to exhaust the machine: nothing runs, and the refusal says why."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import Metadata

from moco_eval.encoders.reading.reader import read
from moco_eval.errors import CheckpointError

# DCP says that it saves from a single process, which is so.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")

KINDS = [
    *("zip.pt", "zip.pth.tar", "legacy.pth", "protocol4.pth", "plain.pkl", "byol.pkl", "dcp"),
    *("dcp_shard", "torchscript.pt", "folder"),
]
BOMBS = [
    *("safetensors", "zip_bomb.pth", "wide.pth", "memo.pkl", "storage.pth", "steps.pkl"),
    *("sets.pkl", "shared.pth", "copies.pkl", "record.pth"),
]


class Trap:
    """A pickle of it makes a folder when it is loaded in full."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def trapped(folder, kind, touched):
    """A file of ``kind`` that would make the folder ``touched``."""
    path, trap = folder / kind, Trap(touched)
    content = {"state_dict": {"w": torch.ones(2)}, "epoch": trap}
    if kind == "folder":
        path.mkdir()
        (path / "config.json").write_text("{}")
        torch.save(content, path / "pytorch_model.bin")
    elif kind.startswith("dcp"):
        distributed(path, trap, in_shard=kind == "dcp_shard")
    elif kind == "torchscript.pt":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("net/data.pkl", pickle.dumps(content | {"state_dict": {}}))
            archive.writestr("net/constants.pkl", pickle.dumps(trap))
    elif kind.endswith(".pkl"):
        state = {"experiment_state": trap} if kind == "byol.pkl" else {"model": trap}
        path.write_bytes(pickle.dumps(state))
    else:
        torch.save(
            content,
            path,
            _use_new_zipfile_serialization="legacy" not in kind,
            pickle_protocol=4 if "protocol4" in kind else 2,
        )
    return path


def distributed(path, trap, *, in_shard):
    dcp.save({"model": {"w": torch.ones(2)}}, checkpoint_id=path, no_dist=True)
    metadata = path / ".metadata"
    if not in_shard:
        metadata.write_bytes(pickle.dumps(Metadata({}, planner_data=trap)))
        return
    shard, content = path / "__0_0.distcp", io.BytesIO()
    torch.save(trap, content)
    said = pickle.loads(metadata.read_bytes())
    (place,) = said.storage_data.values()
    place.offset, place.length = 0, len(content.getvalue())
    shard.write_bytes(content.getvalue())
    metadata.write_bytes(pickle.dumps(said))


def bomb(folder, kind):
    """A file that says of itself that it is much larger than it is."""
    path = folder / kind
    if kind == "safetensors":
        # A float of ten to the eleven numbers in eight bytes.
        entry = {"dtype": "F32", "shape": [10**11], "data_offsets": [0, 4 * 10**11]}
        header = json.dumps({"w": entry}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    elif kind == "zip_bomb.pth":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("bomb/data.pkl", bytes(50_000_000))
    elif kind == "wide.pth":
        torch.save({"w": torch.zeros(1).expand(10**12)}, path)
    elif kind == "memo.pkl":
        # The stock machine's memo grows to the largest index that is put into it.
        path.write_bytes(b"\x80\x02}" + b"Nr\xff\xff\xff\x7f0" + b"\x8e" + b"\xff" * 8 + b".")
    elif kind == "storage.pth":
        # The first format: two to the forty numbers in a file of some hundred bytes.
        torch.save({"w": torch.zeros(7)}, path, _use_new_zipfile_serialization=False)
        path.write_bytes(path.read_bytes().replace(b"K\x07", b"\x8a\x06\0\0\0\0\0\x01"))
    elif kind == "record.pth":
        # 255 numbers in a record of seven: torch would read on behind the record's end.
        torch.save({"w": torch.zeros(7)}, path)
        path.write_bytes(path.read_bytes().replace(b"K\x07", b"K\xff"))
    elif kind == "steps.pkl":
        path.write_bytes(b"\x80\x02" + b"N0" * 5_000_000 + b".")
    elif kind == "sets.pkl":
        # An empty set takes 216 bytes, and one in the file.
        path.write_bytes(b"\x80\x04](" + b"\x8f" * 10_000_000 + b"e.")
    elif kind == "shared.pth":
        # A hundred thousand mappings of the same hundred thousand pairs.
        pairs = b"](" + b"NN\x86" * 100_000 + b"eq\x00"
        calls = b"ccollections\nOrderedDict\nq\x010](" + b"h\x01h\x00\x85R" * 50_000 + b"e"
        zipped(path, b"\x80\x02" + pairs + calls + b".")
    else:
        # Ten thousand arrays of the same megabyte, each with a type of its own.
        text = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20) + b"q\x000"
        call = b"c_codecs\nencode\nq\x010U\x06latin1q\x020](" + b"h\x01h\x00h\x02\x86R" * 10_000
        path.write_bytes(b"\x80\x02" + text + b"}U\x01a" + call + b"es.")
    return path


def zipped(path, pickled):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bomb/data.pkl", pickled)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_a_file_runs_whatever_the_environment_says(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    touched = tmp_path / "touched"
    path = trapped(tmp_path, kind, touched)
    if kind == "torchscript.pt":
        # What asks for it lies in both pickles; the one with the code's constants is not opened.
        assert b"mkdir" in path.read_bytes()
    with pytest.raises(CheckpointError, match=r"besides tensors it asks for (posix|nt)\.mkdir, "):
        read(path)
    assert not touched.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_the_trap_is_no_dud_and_the_stock_pickle_springs_it(tmp_path, zipped):
    touched = tmp_path / "touched"
    path = trapped(tmp_path, "zip.pt" if zipped else "legacy.pth", touched)
    torch.load(path, weights_only=False)
    assert touched.exists()


@pytest.mark.parametrize("kind", BOMBS)
def test_a_file_that_declares_more_than_it_holds_is_refused(tmp_path, kind):
    with pytest.raises(CheckpointError, match="damaged"):
        read(bomb(tmp_path, kind))


@pytest.mark.parametrize("name", ["../outside.distcp", "/etc/hostname", "..", "a/b"])
def test_a_distributed_checkpoint_reads_no_file_outside_its_folder(tmp_path, name):
    path = tmp_path / "dcp"
    dcp.save({"w": torch.ones(2)}, checkpoint_id=path, no_dist=True)
    said = pickle.loads((path / ".metadata").read_bytes())
    for place in said.storage_data.values():
        place.relative_path = name
    (path / ".metadata").write_bytes(pickle.dumps(said))
    with pytest.raises(CheckpointError, match="as a file with weights, which does not lie beside"):
        read(path)


def test_the_command_line_refuses_each_with_exit_code_2_in_time_and_within_a_gigabyte(tmp_path):
    touched = tmp_path / "touched"
    paths = [trapped(tmp_path, kind, touched) for kind in KINDS]
    paths += [bomb(tmp_path, kind) for kind in BOMBS]
    # One process for all, as importing torch takes longer than all the rest.
    script = """
import sys, time
from pathlib import Path
from moco_eval import cli
import moco_eval.encoders.load, moco_eval.encoders.check
for path in sys.argv[1:]:
    # Of the processor: a busy machine is no finding.
    before = time.process_time()
    sys.argv = ["moco-eval", "check", path]
    try:
        code = cli.main()
    except SystemExit as exit:
        code = exit.code
    taken = time.process_time() - before
    # The largest that this process has been, in KiB; getrusage would count its parent too.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print("RESULT", path, code, taken, status["VmHWM"].split()[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, paths)],
        env=os.environ | {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    results = [line.split()[1:] for line in done.stdout.splitlines() if line[:6] == "RESULT"]
    assert [path for path, *_ in results] == [str(path) for path in paths], done.stderr
    for path, code, seconds, peak in results:
        assert code == "2", (path, done.stderr)
        assert float(seconds) < 2, path
        assert int(peak) < 2**20, path
    assert not touched.exists()

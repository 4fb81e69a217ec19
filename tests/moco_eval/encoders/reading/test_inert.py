"""A pickle's tree is what the stock pickle would make of plain values, and names of all else."""

import collections
import datetime
import enum
import io
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from moco_eval.encoders.reading.inert import MAX_STEPS, Inert, parse
from moco_eval.encoders.reading.plain import NoStorages, plain
from moco_eval.errors import CheckpointError

PATH = Path("file.pkl")


class Colour(enum.Enum):
    RED = 7


def tree(content):
    return parse(io.BytesIO(content), PATH, size=len(content)).root


def meaning(value, protocol):
    content = pickle.dumps(value, protocol=protocol)
    return plain(tree(content), PATH, storages=NoStorages(), size=len(content))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_come_back_as_the_stock_pickle_makes_them(protocol):
    value = {
        "numbers": [0, 255, 256, 65536, -1, 2**31, -(2**70), 0.5, float("inf"), True, None],
        "texts": ("", "ä\ud800", "x" * 300, b"\x00\xff", b"y" * 300, bytearray(b"z\xe9")),
        "sets": [{1, "a"}, frozenset({2, (3, 4)}), set()],
        7: {(1, "b"): [[], (), {}], None: 1.5, "long": list(range(2000))},
        "many": {i: str(i) for i in range(2000)},
        "ordered": collections.OrderedDict(b=1, a=2),
        "default": collections.defaultdict(list, x=[1]),
        "counted": collections.Counter("aab"),
    }
    # The stock pickle's own types of mapping and of bytes are equal to the plain ones.
    assert meaning(value, protocol) == value


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_is_shared_stays_shared_and_a_list_may_hold_itself(protocol):
    inner = [1]
    loop = [inner, inner]
    loop.append(loop)
    found = meaning(loop, protocol)
    assert found[0] is found[1]
    assert found[2] is found


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "<i8", ">i4", "u1", "?", "<u2"])
def test_arrays_of_numbers_become_tensors(protocol, dtype):
    array = np.asfortranarray(np.arange(6).reshape(2, 3).astype(dtype))
    found = meaning({"a": array, "n": array[1, 2]}, protocol)
    np.testing.assert_array_equal(found["a"].numpy(), array)
    assert found["n"] == array[1, 2]
    assert not isinstance(found["n"], np.generic)


def test_an_array_of_objects_stays_inert():
    assert isinstance(meaning({"a": np.array([None, "x"])}, 2)["a"], Inert)


@pytest.mark.parametrize("protocol", [2, 4])
def test_objects_of_unknown_classes_are_named_with_what_they_were_made_of(protocol):
    found = meaning({"day": datetime.date(2020, 2, 3), "c": Colour.RED, "p": Path("x")}, protocol)
    # A date pickles its year in two bytes, its month and its day: 2020 is 7 * 256 + 228.
    assert found["day"].kind == "datetime.date"
    assert found["day"].args == (bytes([7, 228, 2, 3]),)
    assert found["c"].kind == f"{__name__}.Colour"
    assert found["c"].args == (7,)
    assert found["p"].kind.endswith("PosixPath")
    assert found["p"].args == ("x",)


def test_calling_what_a_call_returned_is_noted_and_not_done():
    # getattr(int, 'bit_length')(): the name of the first that was asked is kept.
    content = b"\x80\x02c__builtin__\ngetattr\nc__builtin__\nint\nU\x03abs\x86R)R."
    assert tree(content).kind == "__builtin__.getattr"


ATTACKS = [
    *("os.system", "posix.system", "nt.system", "subprocess.Popen", "sys.exit", "shutil.move"),
    *("socket.socket", "runpy.run_path", "importlib.import_module", "ctypes.CDLL", "pty.spawn"),
    *("code.interact", "builtins.eval", "__builtin__.exec", "builtins.compile", "builtins.input"),
    *("builtins.__import__", "builtins.open", "builtins.breakpoint", "pickle.loads", "torch.load"),
    *("torch.hub.load", "torch.storage._load_from_bytes", "torch.jit.load", "os.path.join"),
    *("torch.jit._serialization.load", "builtins.exec", "io.open", "torch.serialization.load"),
]


@pytest.mark.parametrize("name", ATTACKS)
def test_what_only_an_attack_asks_for_is_refused_by_name(name):
    with pytest.raises(CheckpointError, match="is refused: besides tensors it asks for") as caught:
        tree(b"\x80\x02c" + b"\n".join(name.encode().rsplit(b".", 1)) + b"\n.")
    assert f"asks for {name}, which" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["code.models\nNet", "ossify\nNet", "torch.jit._pickle\nbuild_intlist", "my.os\nNet"]
)
def test_what_is_merely_called_alike_is_not(name):
    assert tree(b"\x80\x02c" + name.encode() + b"\n.").kind == name.replace("\n", ".")


BOMBS = {
    # 2**31 - 1 in the memo: the stock machine would fill 16 GiB to reach it.
    "sparse memo": (b"\x80\x02Nr\xff\xff\xff\x7f.", None),
    "long bytes": (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.", EOFError),
    "long bytearray": (b"\x80\x05\x96" + struct.pack("<Q", 1 << 33) + b"x.", EOFError),
    "negative length": (b"\x80\x02T\xff\xff\xff\xff.", EOFError),
    "long integer": (b"\x80\x02\x8b\x00\x10\x00\x00" + bytes(4096) + b".", pickle.UnpicklingError),
    # t = (t, t) forty times, then its hash: 2**40 steps.
    "nested key": (b"\x80\x02}N" + b"2\x86" * 40 + b"Ns.", pickle.UnpicklingError),
    "too many steps": (b"\x80\x02" + b"N0" * MAX_STEPS + b".", pickle.UnpicklingError),
    "extension registry": (b"\x80\x02\x82\x01.", pickle.UnpicklingError),
    "old instance": (b"\x80\x02(iabc\nNet\n.", pickle.UnpicklingError),
    "build on a value": (b"\x80\x02]}b.", TypeError),
    "call of a value": (b"\x80\x02])R.", TypeError),
    "empty stack": (b"\x80\x02.", LookupError),
    "a tuple of nothing": (b"\x80\x02N\x86.", LookupError),
    "no end": (b"\x80\x02N", EOFError),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_pickle_that_would_exhaust_the_machine_ends_early(name):
    content, error = BOMBS[name]
    if error is None:
        assert tree(content) is None
    else:
        with pytest.raises(error):
            tree(content)


def test_a_reference_out_of_a_plain_pickle_is_refused():
    # A storage named as torch does, in a file that has none.
    content = (
        b"\x80\x02ctorch._utils\n_rebuild_tensor\n((U\x07storagectorch\nFloatStorage\nU\x010NK\x01tQ"
        b"K\x00K\x01\x85K\x01\x85tR."
    )
    with pytest.raises(pickle.UnpicklingError, match="refers to 4 bytes 0 outside of its pickle"):
        plain(tree(content), PATH, storages=NoStorages(), size=len(content))


def test_a_tree_that_is_too_deep_is_a_recursion_error_and_no_crash():
    content = b"\x80\x02" + b"N" + b"\x85" * 100_000 + b"."
    with pytest.raises(RecursionError):
        plain(tree(content), PATH, storages=NoStorages(), size=len(content))

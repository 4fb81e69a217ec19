"""What only an attack asks for. Its name makes a file suspect, and the verdict is a refusal.

Nothing rests on this list: what it lacks stays as inert as everything else that a file asks for.
"""

from __future__ import annotations

from pathlib import Path

from moco_eval.errors import CheckpointError

MODULES = frozenset(
    (
        # Processes and the interpreter.
        *("os", "posix", "nt", "subprocess", "pty", "sys", "ctypes", "_ctypes", "platform"),
        *("commands", "popen2"),
        # Files and the network.
        *("shutil", "tempfile", "socket", "ssl", "urllib", "http", "ftplib", "smtplib"),
        *("telnetlib", "requests", "webbrowser"),
        # Code that is named, made or fetched.
        *("importlib", "imp", "runpy", "codeop", "bdb", "pdb", "timeit", "cProfile", "pydoc"),
        *("doctest", "pip", "ensurepip", "marshal", "pickle", "_pickle", "cPickle", "shelve"),
        "joblib",
    )
)
BUILTINS = (
    *("eval", "exec", "execfile", "compile", "__import__", "open", "input", "breakpoint"),
    *("globals", "locals", "setattr"),
)
NAMES = frozenset(
    (
        *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in BUILTINS),
        *("io.open", "io.open_code", "io.FileIO", "_io.open", "_io.open_code", "_io.FileIO"),
        *("code.interact", "code.InteractiveInterpreter", "code.InteractiveConsole"),
        *("types.CodeType", "types.FunctionType", "pkgutil.resolve_name"),
        *("dill.load", "dill.loads", "cloudpickle.load", "cloudpickle.loads"),
        *("numpy.load", "numpy.fromfile", "numpy.memmap", "pandas.read_pickle"),
        *("torch.load", "torch.save", "torch.storage._load_from_bytes"),
        *("torch.serialization.load", "torch.serialization.save"),
        "numpy.testing._private.utils.runstring",
    )
)
PREFIXES = (
    *("torch.hub.", "torch.jit.", "torch.package.", "torch.ops.", "torch.classes."),
    *("torch.utils.cpp_extension.", "torch.utils.model_zoo."),
)
# The lists of a TorchScript archive.
INNOCENT = ("torch.jit._pickle.",)


def refuse_suspect(path: Path, module: str, name: str) -> None:
    """Refuse ``path`` if it asks for ``name`` of ``module`` and only an attack would.

    Raises:
        CheckpointError: With the name.
    """
    full = f"{module}.{name}"
    if full.startswith(INNOCENT):
        return
    if module.partition(".")[0] in MODULES or full in NAMES or full.startswith(PREFIXES):
        raise CheckpointError(
            f"{path} is refused: besides tensors it asks for {full}, which no network needs and "
            "which runs code where a file is loaded in full. Nothing of it was run here. Do not "
            "load it elsewhere; fetch the checkpoint from its author again."
        )

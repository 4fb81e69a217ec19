"""What a user says of a checkpoint that it does not say itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Hints:
    """Each is left out where the file tells.

    Attributes:
        arch: The architecture, as ``build_network`` takes it.
        format: The row of ``FORMATS`` by which the file is read.
        tower: Which of the file's networks is taken.
        prefix: What leads the names of the tensors that are taken, in a file of no known layout.
        input: How the encoder is fed, as ``parse_input`` takes it.
    """

    arch: str | None = None
    format: str | None = None
    tower: str | None = None
    prefix: str | None = None
    input: str | None = None

    def options(self) -> str:
        """The hints that are given, as a command line says them."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return " ".join(f"--{name} {value}" for name, value in given.items())


NO_HINTS = Hints()

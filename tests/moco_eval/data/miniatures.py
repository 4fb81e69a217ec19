"""Sets of the literature as small as the files that a test writes of them."""

import dataclasses


def shrink(monkeypatch, known, name, **counts):
    """Let ``known`` expect of the set ``name`` these numbers; nothing else of its facts changes."""
    monkeypatch.setitem(known, name, dataclasses.replace(known[name], **counts))

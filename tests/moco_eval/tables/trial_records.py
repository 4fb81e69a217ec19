"""Records as ``store.read_heads`` returns them, made of what a test says."""

from dataclasses import dataclass


@dataclass
class Measured:
    """What ``record`` is told; the rest of a record is the same in all of them."""

    protocol: str = "linear-lbfgs"
    version: int = 1
    recipe: str = "lbfgs"
    dataset: str = "digits"
    metric: str = "top1"
    higher_better: bool = True
    weights: str = ""
    fingerprint: str = "f0"
    config: tuple = (("holdout", 0.2), ("num_c", 7))
    deviations: tuple = ()
    engine: str | None = None
    status: str = "ok"
    others: tuple = ()
    time: tuple = ()
    num_params: int = 1_000_000


def record(encoder, value, *, seed=0, **changes):
    """One record; ``value`` None for a run that measured nothing."""
    given = Measured(**changes)
    facts = {"n": 360, "unit": "%", "higher_better": given.higher_better}
    # What is not the primary metric must stay out of a table that does not ask for it.
    measured = {"decoy": {"value": 1e9, "primary": False, **facts}}
    measured[given.metric] = {"value": value, "primary": True, **facts}
    measured |= {name: {"value": v, "primary": False, **facts} for name, v in given.others}
    return {
        "encoder": {
            "id": encoder,
            "tensor_sha256": given.weights or f"weights of {encoder}",
            "num_params": given.num_params,
        },
        "protocol": {
            "id": given.protocol,
            "version": given.version,
            "recipe": given.recipe,
            "deviations": dict(given.deviations),
            "engine": given.engine,
        },
        "config": dict(given.config) | dict(given.deviations),
        "dataset": {"id": given.dataset, "fingerprint": given.fingerprint},
        "seed": seed,
        "status": given.status,
        "metrics": {} if value is None else measured,
        "time": {"wall_s": 1.0, **dict(given.time)},
    }


def stored(records):
    """The same, each with a file name that sorts by when it was written."""
    return [
        {**each, "name": f"{number:04}-{each['encoder']['id']}.json"}
        for number, each in enumerate(records)
    ]


def trials(encoder, values, **changes):
    """A record for each value, with seeds from 0 on."""
    return [record(encoder, value, seed=seed, **changes) for seed, value in enumerate(values)]


def texts(table):
    """What stands in each cell, with its delta and marks, by row and column title."""
    grid = table.grid()
    return {
        (row.label, column): entry.text + (f" ({entry.delta})" if entry.delta else "") + entry.marks
        for row in grid.rows
        for column, entry in zip(grid.columns, row.entries, strict=True)
    }


# Random: mean (96 + 97 + 98) / 3 = 97, sample s.d. sqrt((1 + 0 + 1) / 2) = 1.
# MoCo v2: mean (99 + 99.4) / 2 = 99.2, sample s.d. sqrt((0.04 + 0.04) / 1) = 0.283;
#   against Random 99.2 - 97 = +2.2.
# Detection: 30.96 - 31 = -0.04, which is no -0.0.
SMALL = stored(
    [
        *trials("Random", [96.0, 97.0, 98.0]),
        *trials("MoCo v2", [99.0, 99.4]),
        record("Random", 31.0, protocol="detect-tv", metric="AP", engine="torchvision"),
        record("MoCo v2", 30.96, protocol="detect-tv", metric="AP", engine="torchvision"),
    ]
)

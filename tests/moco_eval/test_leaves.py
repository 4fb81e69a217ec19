"""Errors, whole files, recipes and schedules."""

import errno
from dataclasses import dataclass, replace

import pytest
import torch

from moco_eval import errors, files, recipes, schedules


@dataclass(frozen=True, kw_only=True)
class Recipe:
    lr: float = 0.03
    epochs: int = 200
    drops: tuple[int, ...] = (120, 160)
    mlp: bool = False


KNOWN = {"v1": Recipe(), "v2": Recipe(mlp=True)}


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(errors.UsageError, match=r"no recipe 'v3'\. Did you mean 'v[12]'\?"):
        recipes.choose(KNOWN, "v3", [])


def test_overrides_are_typed_and_found_as_deviations():
    chosen = recipes.choose(KNOWN, "v1", ["lr=1e-3", "drops=[3,4]", "mlp=true"])
    assert chosen == Recipe(lr=0.001, drops=(3, 4), mlp=True)
    assert recipes.deviations(chosen, KNOWN["v1"]) == {"lr": 0.001, "drops": (3, 4), "mlp": True}
    assert recipes.deviations(KNOWN["v1"], KNOWN["v1"]) == {}


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("epoch=3", "called 'epoch'. Did you mean 'epochs'?"),
        ("epochs=3.7", "epochs"),
        ("epochs", "--set takes KEY=VALUE, found 'epochs'"),
        ("lr=fast", "lr"),
    ],
)
def test_bad_overrides_are_refused(override, text):
    with pytest.raises(errors.UsageError) as caught:
        recipes.choose(KNOWN, "v1", [override])
    assert text in str(caught.value)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file"
    with files.atomic_file(path) as file:
        file.write(b"first")
        assert not path.exists()
    assert path.read_bytes() == b"first"

    def break_off():
        with files.atomic_file(path) as file:
            file.write(b"second, but not")
            raise KeyError("broken off")

    with pytest.raises(KeyError):
        break_off()
    assert path.read_bytes() == b"first"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_full_disk_is_said_with_the_space_that_is_left():
    full = OSError(errno.ENOSPC, "No space left on device")
    message = str(errors.output_error(files.Path("/no/such/file"), full))
    assert "/no/such/file cannot be written: No space left on device" in message
    assert "MiB are free on that disk" in message


def test_torchs_own_error_does_not_hide_the_disks(tmp_path):
    # torch.save turns the file's OSError into a RuntimeError of its serialiser.
    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        def flush(self): ...

    def save():
        with files.atomic_file(tmp_path / "weights.pth"):
            torch.save({"x": torch.zeros(10)}, Full())

    with pytest.raises(errors.OutputError, match="No space left on device"):
        save()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    def break_off():
        with files.atomic_folder(tmp_path / "scenes") as folder:
            (folder / "a").write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert list(tmp_path.iterdir()) == []
    with files.atomic_folder(tmp_path / "scenes") as folder:
        (folder / "a").write_text("whole")
    assert (tmp_path / "scenes" / "a").read_text() == "whole"


def test_an_unwritable_place_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.OutputError, match="cannot be written"):
        files.write_text(tmp_path / "file" / "below", "text")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("u"), 2),
        (errors.CheckpointError("c"), 2),
        (errors.DataError("d"), 65),
        (errors.DivergedError("v"), 70),
        (errors.OutputError("o"), 74),
        (OSError("disk"), 74),
        (errors.PreemptedError("p"), 75),
    ],
)
def test_each_error_has_its_exit_code_and_no_traceback(error, code, capsys):
    def fail():
        raise error

    assert errors.run(fail, program="moco-eval", verbose=False) == code
    assert capsys.readouterr().err == f"moco-eval: {error}\n"


def test_verbose_shows_the_traceback(capsys):
    def fail():
        raise errors.UsageError("wrong")

    errors.run(fail, program="moco-eval", verbose=True)
    assert "Traceback" in capsys.readouterr().err


def test_what_only_we_can_cause_is_not_hidden():
    def fail():
        raise AssertionError("ours")

    with pytest.raises(AssertionError):
        errors.run(fail, program="moco-eval", verbose=False)


def test_the_cosine_by_hand():
    # Half of 200 epochs: (1 + cos 90 degrees) / 2 = 0.5.
    assert [schedules.cosine(e, 200) for e in (0, 100, 200)] == pytest.approx([1, 0.5, 0])


def test_the_steps_by_hand():
    assert [schedules.step_drops(e, (120, 160)) for e in (119, 120, 160)] == pytest.approx(
        [1, 0.1, 0.01]
    )


def test_the_warm_up_by_hand():
    assert [schedules.warm_up(s, 4) for s in (0, 1, 3, 9)] == [0.25, 0.5, 1, 1]
    assert schedules.warm_up(0, 0) == 1


def test_the_rate_warms_up_from_0_then_falls_on_half_a_cosine_in_every_step():
    # 2 epochs of 10 are the rise; of the other 8, half are done at 6 and a quarter at 4.
    rates = [schedules.warm_up_then_cosine(p, 2, 10) for p in (0, 0.5, 2, 4, 6, 10)]
    assert rates == pytest.approx([0, 0.25, 1, 0.5 * (1 + 0.5**0.5), 0.5, 0])
    assert schedules.warm_up_then_cosine(0, 0, 10) == 1


def test_the_key_momentum_rises_to_1_on_half_a_cosine():
    # Half of the way from 0.99 to 1 is done in the middle.
    values = [schedules.cosine_to_one(0.99, p, 100) for p in (0, 50, 100)]
    assert values == pytest.approx([0.99, 0.995, 1], abs=1e-12)


def test_replace_keeps_a_recipe_frozen():
    with pytest.raises(AttributeError):
        KNOWN["v1"].lr = 3
    assert replace(KNOWN["v1"], lr=3.0).lr == 3.0

"""``moco-eval run`` as it is typed, in this process; only the cells run in others."""

import pytest

from moco_eval import cli, store

SUITE = """
[data]
images = ""
[[encoders]]
name = "made"
pretrain = {recipe = "mocov2-digits", data = "digits", output = "run", set = SETTINGS}
[[encoders]]
name = "given"
encoder = "given.pth"
arch = "resnet10_small"
input = "half,size=8"
[[runs]]
protocol = "knn"
data = "images"
set = ["other_k=[]"]
note = "Table 9"
"""
SETTINGS = ["epochs=1", "batch_total=128", "queue_size=512", "image_size=8", "dim=8"]


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """``run(*arguments)``: the exit code, and what was said."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(SUITE.replace("SETTINGS", str(SETTINGS)))

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["moco-eval", "run", "s.toml", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capfd.readouterr()
        return ended.value.code, captured.out + captured.err

    return call


def tree(folder):
    return {path.relative_to(folder) for path in folder.rglob("*")}


def test_a_dry_run_writes_nothing_and_says_what_is_missing(tmp_path, run, write_checkpoint):
    write_checkpoint(tmp_path / "given.pth")
    before = tree(tmp_path)
    code, said = run("--data", "images=digits", "--dry-run")
    assert code == 0
    assert tree(tmp_path) == before
    rows = [line.split() for line in said.splitlines()]
    assert ["to", "run", "knn", "knn-20", "other_k=[]", "digits", "given", "0", "?"] in rows
    assert any(row[:5] == ["to", "run,", "pretrained", "first", "knn"] for row in rows)
    assert "knn on images: Table 9" in said


def test_a_suite_makes_what_is_missing_runs_it_and_knows_it_by_its_content(
    tmp_path, run, write_checkpoint
):
    write_checkpoint(tmp_path / "given.pth")
    code, said = run("--data", "images=digits")
    assert (code, "2 recorded now." in said) == (0, True), said
    assert "$ moco-pretrain --recipe mocov2-digits --data digits --output run" in said
    assert (tmp_path / "run" / "checkpoint.pth.tar").exists()
    found, _ = store.read_all(tmp_path / "results")
    assert sorted(record["encoder"]["id"] for record in found) == ["given", "made"]
    # A look at it writes nothing, the store's index neither.
    (tmp_path / "results" / ".index.parquet").unlink(missing_ok=True)
    before = tree(tmp_path)
    code, said = run("--data", "images=digits", "--dry-run")
    assert (code, tree(tmp_path)) == (0, before)
    assert ["all", "2", "2", "0", "0", "0.0", "s"] in [line.split() for line in said.splitlines()]
    # The same bytes elsewhere are the same encoder.
    (tmp_path / "given.pth").rename(tmp_path / "moved.pth")
    text = (tmp_path / "s.toml").read_text()
    (tmp_path / "s.toml").write_text(text.replace("given.pth", "moved.pth"))
    code, said = run("--data", "images=digits")
    assert (code, "2 recorded before." in said) == (0, True), said
    # Other bytes are another, and so is another seed.
    write_checkpoint(tmp_path / "moved.pth", seed=1)
    (tmp_path / "s.toml").write_text((tmp_path / "s.toml").read_text() + "seeds = [0, 5]\n")
    code, said = run("--data", "images=digits", "--only-encoders", "given")
    assert (code, "2 recorded now." in said) == (0, True), said


def test_what_cannot_be_run_is_said_and_decides_the_exit_code(tmp_path, run):
    code, said = run("--data", "images=digits", "--only-encoders", "given")
    assert code == 2
    assert "1 cannot be run." in said
    assert "There is no file given.pth" in said
    code, said = run("--data", f"images=imagefolder:{tmp_path / 'no'}", "--encoder", "given=pixels",
                     "--only-encoders", "given")  # fmt: skip
    assert code == 65


def test_an_encoder_that_cannot_be_made_is_said_with_its_log(tmp_path, run):
    text = (tmp_path / "s.toml").read_text()
    (tmp_path / "s.toml").write_text(text.replace("epochs=1", "epochs=x"))
    code, said = run("--data", "images=digits", "--only-encoders", "made")
    assert code == 70
    assert "made could not be pretrained (exit code 2); see runs/pretraining/made.txt" in said
    assert "epochs" in (tmp_path / "runs" / "pretraining" / "made.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "say which data that is: --data images=SPEC"),
        (["--data", "images=digits", "--rerun", "alwas"], "Did you mean 'always'"),
        (["--data", "images=digits", "--jobs", "2", "--gpus", "0"], "exclude each other"),
        (["--data", "images=digits", "--slurm", "gpu=1"], "Did you mean 'gpus'"),
    ],
)
def test_a_wrong_option_is_refused(run, arguments, error):
    code, said = run(*arguments)
    assert code == 2
    assert error in said

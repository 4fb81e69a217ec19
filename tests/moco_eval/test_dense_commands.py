"""What the command lines of detect and segment add: checks, trials, grids, tasks, devices."""

import json
import sys

import pytest

from moco_eval import segment
from moco_eval.cli import main
from moco_eval.errors import UsageError

TINY = (
    *("num_iterations=2", "batch_total=2", "lr_drops=[]", "warmup_iterations=1"),
    *("short_sides_train=[48]", "short_side_test=48", "anchor_sizes=[16,32]"),
    *("roi_batch=8", "rpn_batch=16", "rpn_post_nms=[20,20]", "precise_bn_batches=1"),
)


@pytest.fixture
def run(coco_folder, monkeypatch, capsys):
    """Run a command on the tiny scenes, and return its exit code and what it said."""

    def run(name, *arguments, sets=TINY):
        half = f"{coco_folder / 'images'}:{coco_folder / 'all.json'}"
        command = [
            *("moco-eval", name, "random:resnet10_small", "--data", f"coco:{half}:{half}"),
            *("--engine", "torchvision", "--name", "tiny", "--pictures", "false"),
            *("--results", str(coco_folder / "results"), "--work", str(coco_folder / "runs")),
            *(part for each in sets for part in ("--set", each)),
            *arguments,
        ]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return ended.value.code, said.out + said.err

    return run


def records_of(folder):
    paths = sorted((folder / "results").rglob("*.json"))
    return [json.loads(path.read_text()) for path in paths]


def test_check_proves_the_backbone_and_trains_nothing(run, coco_folder):
    code, said = run("detect", "--check")
    assert code == 0
    assert "detect-tv: object detection by an R-CNN on res4" in said
    # A ResNet-10: 12 convolutions with their shortcuts', and 12 norms of four tensors each.
    assert "60 tensors are the encoder's; the features of one image differ" in said
    assert not (coco_folder / "results").exists()
    assert not (coco_folder / "runs").exists()


def test_trials_run_seed_by_seed_and_only_what_is_missing(run, coco_folder):
    code, said = run("detect", "--trials", "2", "--seed", "3")
    assert code == 0, said
    assert sorted(record["seed"] for record in records_of(coco_folder)) == [3, 4]
    assert "2 trials: AP " in said
    assert "±" in said
    code, said = run("detect", "--trials", "3", "--seed", "3")
    assert code == 0, said
    assert said.count("Already recorded") == 2
    assert sorted(record["seed"] for record in records_of(coco_folder)) == [3, 4, 5]


def test_no_trials_are_refused(run):
    code, said = run("detect", "--trials", "0")
    assert code == 2
    assert "--trials takes a positive number, found 0" in said


def test_a_grid_of_rates_is_recorded_as_a_selection(run, coco_folder):
    code, said = run("detect", "--lr-grid", "0.001,0.002")
    assert code == 0, said
    [record] = records_of(coco_folder)
    chosen = record["details"]["selection"]
    assert set(chosen["score_by_lr"]) == {"0.001", "0.002"}
    assert chosen["lr"] in (0.001, 0.002)
    assert record["protocol"]["deviations"]["lr_grid"] == [0.001, 0.002]


def test_a_recipe_for_eight_devices_follows_to_one_and_says_so(run, coco_folder):
    code, said = run("detect", "--recipe", "voc-c4-24k", "--check", sets=())
    assert code == 0, said
    assert "The recipe is for 8 devices: batch, learning rate and updates follow" in said
    # 16 images and 0.02 on eight are 2 and 0.0025 on one, for eight times as long.
    for told in ("batch_total=2", "lr=0.0025", "num_iterations=192000", "warmup_iterations=800"):
        assert told in said
    code, said = run(
        "detect", "--recipe", "voc-c4-24k", "--check", sets=("reference_world_size=0",)
    )
    assert "Deviates from the recipe: reference_world_size=0." in said
    # What is asked for in so many words is not rescaled.
    code, said = run("detect", "--recipe", "voc-c4-24k", "--check", sets=("lr=0.01",))
    assert "lr=0.01," in said
    assert "batch_total=2" in said


def test_the_command_says_which_kind_of_segmentation_it_runs(run):
    code, said = run("segment", "--task", "instance", "--check")
    assert code == 0, said
    assert "segment-tv: instance segmentation by an R-CNN on res4" in said
    assert "with masks" in said


def test_check_proves_a_segmenters_backbone_too(tmp_path, monkeypatch, capsys):
    command = ["moco-eval", "segment", "random:resnet10_small", "--task", "semantic", "--check"]
    monkeypatch.setattr(sys, "argv", [*command, "--data", "digits-scenes"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert "segment-semantic: semantic segmentation, a class for each pixel." in said
    assert "60 tensors are the encoder's; the features of one image differ" in said


def test_sets_for_dense_tasks_are_listed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["moco-eval", "datasets"])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().out
    assert "voc07+12:DIR\n  20 classes of objects, 16,551 training and 4,952 test images" in said
    assert "voc-aug:DIR\n  10,582 training and 1,449 test images" in said


def test_a_task_has_its_recipes_and_refuses_the_others():
    assert segment.recipe_of("", "") == "digits-c4"
    assert segment.recipe_of("semantic", "") == "digits-fcn"
    assert segment.recipe_of("", "voc-aug-fcn") == "voc-aug-fcn"
    with pytest.raises(UsageError, match="Recipe 'voc-aug-fcn' is of --task semantic"):
        segment.recipe_of("instance", "voc-aug-fcn")
    with pytest.raises(UsageError, match="semantic"):
        segment.recipe_of("semanic", "")


def test_instance_segmentation_without_masks_is_refused(run):
    code, said = run("segment", "--set", "masks=false")
    assert code == 2
    assert "leave out --set masks=false" in said


def test_entries_of_detectron2_are_refused_by_the_other_engine(run):
    code, said = run("detect", "--opts", "MODEL.RPN.NMS_THRESH=0.6", "--check")
    assert code == 2
    assert "opts" in said


def test_two_processes_share_a_run_and_record_it_once(run, coco_folder):
    code, said = run("detect", "--nproc", "2", "--device", "cpu")
    assert code == 0, said
    [record] = records_of(coco_folder)
    assert record["details"]["num_processes"] == 2
    # Each image once: ten scenes.
    assert record["metrics"]["AP"]["n"] == 10

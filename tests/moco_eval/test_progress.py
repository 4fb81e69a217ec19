import itertools

import pytest

from moco_eval.progress import Pace, Progress


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s

    def wait(self, seconds):
        self.now_s += seconds


def lines_of(capsys):
    return capsys.readouterr().out.splitlines()


def test_without_a_terminal_a_line_comes_every_thirty_seconds_and_at_the_end(capsys):
    clock = Clock()
    progress = Progress("digits", total=5, clock=clock)
    for loss in (9.0, 8.0, 7.0, 6.0, 5.0):
        clock.wait(20)
        progress.show({"step": -9, "epoch": -9, "loss": loss, "lr": 0.03})
    progress.close()
    # Too early at 20 s; a line at 40 s, when three steps of 20 s are left; at 80 s; at the end.
    assert lines_of(capsys) == [
        "digits: step 2/5 loss 8, lr 0.03, 0:01:00 left",
        "digits: step 4/5 loss 6, lr 0.03, 0:00:20 left",
        "digits: step 5/5 loss 5, lr 0.03",
    ]


def test_a_resumed_run_is_timed_by_its_own_steps(capsys):
    clock = Clock()
    progress = Progress("digits", total=1000, done=900, unit="image", clock=clock)
    clock.wait(100)
    progress.show({"loss": 1.0})
    # One image in 100 s, 99 left: 9,900 s = 2 h 45 min. Were the 900 this process's: 11 s.
    assert lines_of(capsys) == ["digits: image 901/1000 loss 1, 2:45:00 left"]


def test_rare_news_does_not_wait(capsys):
    progress = Progress("digits", total=10, clock=Clock())
    progress.show({"loss": 1.0})
    progress.show({"loss": 1.0, "knn_top1": 82.13}, at_once=True)
    assert lines_of(capsys) == ["digits: step 2/10 loss 1, knn top1 82.1, 0:00:00 left"]


def test_a_quiet_rank_says_nothing(capsys):
    clock = Clock()
    progress = Progress("digits", total=2, quiet=True, clock=clock)
    for _ in range(2):
        clock.wait(60)
        progress.show({"loss": 1.0}, at_once=True)
    progress.close()
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("lr", 3e-05, "lr 3e-05"),
        ("loss", 11.0904, "loss 11.1"),
        ("contrast_top1", 0.0, "contrast top1 0"),
        ("images_per_s", 12345.6, "images/s 12,346"),
        ("wait_percent", 7.25, "wait 7.25 %"),
    ],
)
def test_a_number_is_short_and_has_its_unit(capsys, name, value, text):
    Progress("run", total=1, clock=Clock()).show({name: value})
    assert lines_of(capsys) == [f"run: step 1/1 {text}"]


def pass_through(pace, clock, steps):
    """Run steps of (seconds of waiting, seconds of work)."""

    def batches():
        for number, (wait_s, _) in enumerate(steps):
            clock.wait(wait_s)
            yield number

    for number in pace.timed(batches()):
        clock.wait(steps[number][1])


def test_the_pace_by_hand():
    clock = Clock()
    pace = Pace(256, clock=clock)
    # The first step, with its 1e6 s of starting workers, must not count. Then 1 + 3 s and 0 + 4 s:
    # 512 images in 8 s, of which 1 s was spent waiting.
    pass_through(pace, clock, [(1e6, 1e6), (1, 3), (0, 4)])
    assert pace.figures() == {"images_per_s": 64.0, "wait_percent": 12.5}


def test_a_pace_without_a_whole_step_has_no_figures():
    clock = Clock()
    pace = Pace(256, clock=clock)
    pass_through(pace, clock, [(1, 1)])
    assert pace.figures() == {}


def test_the_pace_forgets_steps_that_are_long_gone():
    clock = Clock()
    pace = Pace(10, clock=clock)
    pass_through(pace, clock, [(0, 1), (900, 100), *itertools.repeat((0, 2), 50)])
    # Ten images in each of the last 50 steps of 2 s.
    assert pace.figures() == {"images_per_s": 5.0, "wait_percent": 0.0}


def test_a_step_that_evaluates_is_left_out_of_the_pace():
    clock = Clock()
    pace = Pace(10, clock=clock)
    for number in pace.timed(range(3)):
        clock.wait(2)
        if number == 1:
            clock.wait(1e6)
            pace.leave_out()
    assert pace.figures() == {"images_per_s": 5.0, "wait_percent": 0.0}

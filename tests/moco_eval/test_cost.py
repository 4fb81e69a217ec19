import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from moco_eval import cost
from moco_eval.errors import DataError, RankError


def run(folder, *, key="a", is_finished=True, error=None):
    with cost.Meter(key, folder, device="cpu") as meter:
        if error:
            raise error
        return meter.end(is_finished=is_finished)


def test_a_run_that_ends_at_its_first_start_has_none_before_it(tmp_path):
    spent = run(tmp_path)
    assert (spent["num_resumes"], spent["num_processes"]) == (0, 1)
    assert spent["peak_device_memory_mib"] is None
    assert list(tmp_path.iterdir()) == []


def test_starts_that_were_stopped_are_counted_and_their_seconds_added(tmp_path):
    spent = []
    for is_finished in (False, False, True):
        with cost.Meter("a", tmp_path, device="cpu") as meter:
            time.sleep(0.05)
            spent.append(meter.end(is_finished=is_finished))
    assert [each["num_resumes"] for each in spent] == [0, 1, 2]
    assert spent[1]["wall_s"] >= 0.1
    assert spent[2]["wall_s"] >= 0.15
    # Sleep holds no processor.
    assert spent[2]["device_s"] < 0.1
    # A run that has ended leaves nothing for the next one.
    assert run(tmp_path)["num_resumes"] == 0


def test_a_start_that_was_killed_is_counted(tmp_path):
    killed = (
        "import os, sys; from pathlib import Path; from moco_eval.cost import Meter;"
        "Meter('a', Path(sys.argv[1]), device='cpu').__enter__(); os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", killed, str(tmp_path)], check=False)
    assert ended.returncode == -9
    assert run(tmp_path, is_finished=False)["num_resumes"] == 1
    assert run(tmp_path)["num_resumes"] == 2


def test_what_cannot_be_run_is_no_start_and_a_lost_rank_is_one(tmp_path):
    with pytest.raises(DataError):
        run(tmp_path, error=DataError("damaged"))
    assert run(tmp_path, is_finished=False)["num_resumes"] == 0
    with pytest.raises(RankError):
        run(tmp_path, error=RankError("gone"))
    assert run(tmp_path)["num_resumes"] == 2


def test_starts_of_another_run_in_the_same_folder_do_not_count(tmp_path):
    run(tmp_path, key="b", is_finished=False)
    assert run(tmp_path)["num_resumes"] == 0


@pytest.mark.parametrize("left", ["", "{", "[1]", '{"key": "a"}', "null"])
def test_a_damaged_count_counts_nothing(tmp_path, left):
    (tmp_path / cost.FILE_NAME).write_text(left)
    assert run(tmp_path)["num_resumes"] == 0


def test_a_folder_that_cannot_be_written_costs_no_run(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert run(blocked)["num_resumes"] == 0


def test_processor_seconds_are_those_of_children_too(tmp_path):
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    with cost.Meter("a", tmp_path, device="cpu") as meter:
        subprocess.run([sys.executable, "-c", burn], check=True)
        spent = meter.end(is_finished=True)
    assert spent["device_s"] >= 0.3


def test_the_peak_of_memory_is_that_of_this_run_and_not_of_one_before(tmp_path):
    with cost.Meter("a", tmp_path, device="cpu") as meter:
        held = np.ones(300 * 2**17)  # 300 MiB
        first = meter.end(is_finished=True)
    del held
    second = run(tmp_path)
    assert first["peak_memory_mib"] - second["peak_memory_mib"] > 200


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_on_a_gpu_seconds_are_held_and_memory_is_the_devices(tmp_path):
    with cost.Meter("a", tmp_path, device="cuda") as meter:
        held = torch.ones(64 * 2**18, device="cuda")  # 64 MiB
        time.sleep(0.05)
        spent = meter.end(is_finished=True)
    assert spent["device_s"] == spent["wall_s"] >= 0.05
    assert 64 <= spent["peak_device_memory_mib"] < 1024
    del held

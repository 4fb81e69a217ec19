import os

from moco_eval.suite.job import Ended
from moco_eval.suite.pool import Worker, slots


def test_a_worker_sees_one_gpu_and_its_share_of_the_cores_or_one_thread(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 9)
    assert slots(jobs=1, gpus=["2", "5"]) == [
        {"CUDA_VISIBLE_DEVICES": "2", "OMP_NUM_THREADS": "4"},
        {"CUDA_VISIBLE_DEVICES": "5", "OMP_NUM_THREADS": "4"},
    ]
    assert slots(jobs=2, gpus=[]) == [{"OMP_NUM_THREADS": "1"}] * 2


def test_a_process_has_its_environment_before_anything_is_imported(tmp_path, monkeypatch):
    # Python runs sitecustomize before the worker's module; it tells, and ends the process.
    seen = tmp_path / "seen"
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        f"open({str(seen)!r}, 'w').write(os.environ['CUDA_VISIBLE_DEVICES'])\n"
        "assert 'torch' not in sys.modules\n"
        "os._exit(7)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    worker = Worker({"CUDA_VISIBLE_DEVICES": "3"})
    worker.give(Ended("ok"))  # anything that can be sent
    assert worker.ended() == 7
    assert seen.read_text() == "3"
    worker.end()

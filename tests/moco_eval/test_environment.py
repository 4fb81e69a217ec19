import json
import os
import subprocess
import sys

import pytest
import torch

from moco_eval import engines, environment
from moco_eval.data.catalog import open_scenes
from moco_eval.errors import UsageError


def test_what_a_record_remembers_is_plain_json():
    found = json.loads(json.dumps(environment.describe()))
    assert found["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert found["hardware"]["num_cpus"] >= 1


def test_a_look_at_the_code_takes_no_lock_of_its_repository(tmp_path, monkeypatch):
    module = tmp_path / "moco_eval" / "environment.py"
    module.parent.mkdir()
    module.write_text("")
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "begin"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    # Git would now note the new time in its index, for which it locks it.
    os.utime(module, (0, 0))
    index = tmp_path / ".git" / "index"
    before = index.stat().st_ino, index.stat().st_mtime_ns
    monkeypatch.setattr(environment, "__file__", str(module))
    found = environment.describe()
    assert len(found["git"]) == 40
    assert found["dirty"] is False
    assert (index.stat().st_ino, index.stat().st_mtime_ns) == before
    module.write_text("changed")
    assert environment.describe()["dirty"] is True


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert environment.choose_device("auto") == "cpu"
    with pytest.raises(UsageError, match="no GPU that torch can use"):
        environment.choose_device("cuda")
    with pytest.raises(UsageError, match="no device 'gpu'"):
        environment.choose_device("gpu")


def test_a_folder_called_detectron2_is_not_detectron2(monkeypatch, tmp_path, make_encoder):
    encoder = make_encoder()
    (tmp_path / "detectron2").mkdir()
    elsewhere = [path for path in sys.path if "site-packages" not in path]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *elsewhere])
    monkeypatch.delitem(sys.modules, "detectron2", raising=False)
    assert not engines.has_detectron2()
    assert engines.choose("auto", encoder) == "torchvision"
    with pytest.raises(UsageError, match=r"not installed\. Install it with: python -m pip install"):
        engines.choose("detectron2", encoder)


def test_an_unknown_kind_of_scenes_offers_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'digits-scenes'"):
        open_scenes("digit-scenes")

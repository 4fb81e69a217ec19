import pytest

from moco_eval.cell import Cell
from moco_eval.errors import UsageError
from moco_eval.suite.tasks import Task, identified
from moco_eval.suite.worker import opened


def test_what_changed_since_the_suite_looked_at_it_is_not_run_under_its_name():
    cell = Cell(protocol="knn", encoder="pixels", data="digits")
    (task,) = identified([cell])
    assert isinstance(task, Task)
    assert opened(task).run.key() == task.key
    with pytest.raises(UsageError, match="changed since the suite looked at it"):
        opened(Task(cell, task.run, "the key of other data"))

import pytest

from moco_eval.errors import UsageError
from moco_eval.suite import plan
from moco_eval.suite.tasks import cells_of

ENCODERS = (
    '[[encoders]]\nname = "a"\nencoder = "pixels"\n[[encoders]]\nname = "b"\nencoder = "x.pth"\n'
)
RUN = '[[runs]]\nprotocol = "knn"\ndata = "digits"\n'


def read(folder, text):
    path = folder / "s.toml"
    path.write_text(text)
    return plan.read(path)


def told(cells):
    return [(cell.protocol, cell.recipe, cell.name, cell.seed) for cell in cells]


def test_a_suite_is_read_with_all_that_it_can_say(tmp_path):
    suite = read(
        tmp_path,
        'name = "mine"\n[data]\nimages = "digits"\n'
        '[[encoders]]\nname = "a"\nencoder = "x.pth"\narch = "resnet18"\ninput = "half"\n'
        '[[encoders]]\nname = "b"\n'
        'pretrain = {recipe = "r", data = "d", output = "out", seed = 3, set = ["k=v"]}\n'
        '[[runs]]\nprotocol = "knn"\ndata = "images"\nseeds = [4, 2]\nset = ["k=7"]\n'
        'exclude = ["b"]\nnote = "Table 9"\n',
    )
    first, second = suite.encoders
    assert (first.hints.arch, first.hints.input, first.hints.prefix) == ("resnet18", "half", None)
    # What is pretrained need not say where its checkpoint will lie.
    assert second.spec == "out/checkpoint.pth.tar"
    assert second.pretraining.num_threads == 1
    assert second.pretraining.overrides == ("k=v",)
    cells, left_out = cells_of(suite)
    assert told(cells) == [("knn", "knn-20", "a", 4), ("knn", "knn-20", "a", 2)]
    assert left_out == []
    assert (cells[0].data, cells[0].overrides, cells[0].hints) == ("digits", ("k=7",), first.hints)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("runs = 3\n", r"s\.toml: runs is 3, and should be a list"),
        ('nam = "x"\n' + RUN, r"s\.toml: There is no key 'nam'\. Did you mean 'name'"),
        ("name = 3\n" + RUN, r"s\.toml: name is 3, and should be text"),
        (RUN + "seed = 1\n", r"s\.toml, \[\[runs\]\] 1: There is no key 'seed'.* mean 'seeds'"),
        (RUN + RUN + "trials = 0\n", r"\[\[runs\]\] 2: trials is 0, and should be at least 1"),
        (RUN + "trials = true\n", r"trials is True, and should be a whole number"),
        (RUN + "seeds = [1, 1]\n", r"seeds is \[1, 1\], and should be different numbers"),
        (RUN + 'seeds = ["1"]\n', r"seeds is \['1'\], and should be a list of whole numbers"),
        (RUN + "seeds = [true]\n", r"seeds is \[True\], and should be a list of whole numbers"),
        (RUN + "once = 1\n", r"once is 1, and should be true or false"),
        (RUN + "once = true\ntrials = 2\n", r"trials and once say the same"),
        (RUN + "set = [1]\n", r"set is \[1\], and should be a list of texts"),
        ('[[runs]]\nprotocol = "knn"\n', r"\[\[runs\]\] 1: data is missing"),
        (ENCODERS + RUN + 'include = ["c"]\n', r"There is no encoder of the suite 'c'"),
        ('[[encoders]]\nname = "a"\n' + RUN, r"\[\[encoders\]\] 1: encoder is missing"),
        (ENCODERS + ENCODERS + RUN, r"2 encoders are called 'a'"),
        (ENCODERS, r"has no \[\[runs\]\]"),
        ("[data]\nimages = 1\n" + RUN, r"data\.images is 1, and should be text"),
        ("runs = [1]\n", r"runs holds something that is no table"),
        (
            '[[encoders]]\nname = "a"\npretrain = {recipe = "r", data = "d"}\n' + RUN,
            r"\[\[encoders\]\] 1, pretrain: output is missing",
        ),
        ("[[runs]\n", r"s\.toml is no TOML"),
    ],
)
def test_a_mistake_is_refused_with_its_file_and_key(tmp_path, text, error):
    with pytest.raises(UsageError, match=error):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (RUN.replace("knn", "knm"), r"s\.toml, knm on digits: There is no protocol 'knm'"),
        (RUN + 'recipe = "knn-2"\n', r"There is no recipe 'knn-2'\. Did you mean 'knn-20'"),
        (RUN + 'set = ["kk=2"]\n', r"There is no key of recipe 'knn-20' called 'kk'"),
        (RUN + 'engine = "all"\n', r"knn knn-20 has no engine"),
        (RUN + 'task = "semantic"\n', r"task is for segment alone"),
        (
            RUN.replace("knn", "detect").replace("digits", "digits-scenes") + 'engine = "tv"\n',
            r"There is no engine 'tv'",
        ),
        ('[data]\nimages = ""\n' + RUN.replace("digits", "images"), r"--data images=SPEC"),
    ],
)
def test_what_the_program_does_not_have_is_refused_before_anything_runs(tmp_path, text, error):
    suite = read(tmp_path, text)
    with pytest.raises(UsageError, match=error):
        cells_of(suite)


def test_quick_protocols_come_first_and_of_these_the_first_seeds(tmp_path):
    suite = read(
        tmp_path,
        ENCODERS + '[[runs]]\nprotocol = "lowshot"\nrecipe = "5-shot-finetune"\ndata = "digits"\n'
        '[[runs]]\nprotocol = "linear"\ndata = "digits"\ntrials = 2\n'
        '[[runs]]\nprotocol = "knn"\ndata = "digits"\nonce = true\ninclude = ["b"]\n'
        '[[runs]]\nprotocol = "svm"\nrecipe = "digits"\ndata = "digits"\nexclude = ["b"]\n',
    )
    assert told(cells_of(suite)[0]) == [
        ("knn", "knn-20", "b", 0),
        ("linear", "lbfgs", "a", 0),
        ("linear", "lbfgs", "b", 0),
        ("linear", "lbfgs", "a", 1),
        ("linear", "lbfgs", "b", 1),
        ("svm", "digits", "a", 0),
        # It trains the network, and is as slow as fine-tuning on all labels.
        ("lowshot", "5-shot-finetune", "a", 0),
        ("lowshot", "5-shot-finetune", "b", 0),
    ]


def test_a_run_by_all_engines_has_cells_of_each_that_is_installed(tmp_path, monkeypatch):
    suite = read(
        tmp_path,
        ENCODERS + '[[runs]]\nprotocol = "detect"\ndata = "digits-scenes"\nengine = "all"\n',
    )
    for installed in (True, False):
        monkeypatch.setattr("moco_eval.suite.tasks.has_detectron2", lambda here=installed: here)
        cells, left_out = cells_of(suite)
        engines = ["detectron2", "torchvision"] if installed else ["torchvision"]
        assert [cell.engine for cell in cells if cell.name == "a"] == engines
        assert ["detectron2 is left out" in text for text in left_out] == [True] * (not installed)


def test_the_command_line_adds_encoders_and_data_and_takes_parts(tmp_path):
    suite = read(tmp_path, '[data]\nimages = ""\n' + ENCODERS + RUN.replace("digits", "images"))
    suite = plan.with_data(suite, ["images=csv:a=b.csv"])
    suite = plan.with_encoders(suite, ["b=other.pth", "random:resnet18"])
    assert suite.data == {"images": "csv:a=b.csv"}
    specs = {encoder.name: encoder.spec for encoder in suite.encoders}
    assert specs == {"a": "pixels", "b": "other.pth", "random:resnet18": "random:resnet18"}
    part = plan.only(suite, encoders=["b"], protocols=["knn"])
    assert [encoder.name for encoder in part.encoders] == ["b"]
    with pytest.raises(UsageError, match=r"no data 'image'\. Did you mean 'images'"):
        plan.with_data(suite, ["image=digits"])
    with pytest.raises(UsageError, match="takes NAME=SPEC"):
        plan.with_data(suite, ["digits"])
    with pytest.raises(UsageError, match="no encoder of the suite called 'c'"):
        plan.only(suite, encoders=["c"], protocols=[])
    with pytest.raises(UsageError, match="no protocol of the suite called 'linear'"):
        plan.only(suite, encoders=[], protocols=["linear"])


def test_a_suite_is_found_by_its_path_or_its_name(tmp_path):
    assert plan.find("quick").name == "quick.toml"
    assert plan.find(str(tmp_path / "x.toml")) == tmp_path / "x.toml"
    with pytest.raises(UsageError, match=r"no suite 'quik'\. Did you mean 'quick'"):
        plan.find("quik")


@pytest.mark.parametrize("name", ["quick", "moco-paper", "digits", "pretraining-digits"])
def test_every_recipe_of_a_shipped_suite_exists(name):
    suite = plan.with_data(plan.read(plan.find(name)), ["images=digits"] * (name == "quick"))
    cells, _ = cells_of(plan.with_encoders(suite, ["mine=pixels"]))
    assert {cell.protocol for cell in cells} == {run.protocol for run in suite.runs}

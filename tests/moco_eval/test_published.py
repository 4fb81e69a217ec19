import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from moco_eval import cli, published, published_addresses, recipes
from moco_eval.cell import DENSE_PROTOCOLS, IMAGE_PROTOCOLS, protocol_module
from moco_eval.data.facts import DATASETS
from moco_eval.data.scene_sets import SCENE_SETS
from moco_eval.data.semantic_sets import PUBLISHED as SEMANTIC_SETS
from moco_eval.errors import UsageError
from moco_eval.published_addresses import ADDRESSES, NOT_MEASURED, NOT_MEASURED_ON

ROOT = Path(__file__).parents[2]
DATA = {"detect": {*SCENE_SETS}, "segment": {*SCENE_SETS}, "segment-semantic": {*SEMANTIC_SETS}}


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["moco-eval", "published", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_every_published_number_is_there_with_its_source():
    numbers = published.read()
    assert len(numbers) == 2075
    assert all(number.source for number in numbers)
    assert Counter(number.is_verified for number in numbers) == {True: 2050, False: 25}


def test_the_file_is_told_as_it_stands():
    text = (ROOT / "results/published.csv").read_text()
    assert [dict(number.row) for number in published.read()] == list(
        csv.DictReader(text.splitlines())
    )


def test_a_search_finds_rows_in_which_every_word_occurs_whatever_its_case():
    # MoCo v1's headline figure: 60.6 top-1 under the linear protocol (arXiv:1911.05722, table 1).
    found = published.search(["MOCO", "1911.05722", "linear", "60.6", "r50"])
    assert {number.value for number in found} == {"60.6"}
    assert {number.source for number in found} == {
        "arXiv 1911.05722 Fig.3",
        "arXiv 1911.05722 Table 1",
    }


def test_words_are_not_patterns():
    # As a pattern, "top." would find top1, and "(repo" would be an error.
    with pytest.raises(UsageError):
        published.search(["top."])
    assert all("(repo" in number.method for number in published.search(["(repo"]))


def test_no_words_find_every_row_in_the_order_of_the_file():
    assert published.search([]) == list(published.read())


def test_digits_are_kept_as_printed():
    # Parsed and printed again, 82.0 would be 82.0 but 53 would be 53.0, and 0.399 could be 0.4.
    found = published.search(["2003.04297 Table 3"], metric="hours_200ep")
    assert [(number.value, number.number, number.std) for number in found] == [
        ("53", 53.0, None),
        ("65", 65.0, None),
    ]


def test_a_number_that_nobody_checked_is_marked_and_no_other_is():
    numbers = published.read()
    marked = [number for number in numbers if number.text.endswith("*")]
    assert len(marked) == 25
    assert not any(number.is_verified for number in marked)
    assert {number.text for number in published.search(["2003.04297"], metric="AP50")} == {
        *("82.0*", "82.2*", "82.5*", "82.4", "82.5")
    }


def test_a_spread_stands_beside_its_number():
    # facebookresearch/moco: 60.8 +- 0.2 over five runs.
    [number] = published.search(["MoCo v1 (repo, mean of 5)"], metric="top1")
    assert (number.text, number.std) == ("60.8 ± 0.2", 0.2)


@pytest.mark.parametrize("address", ADDRESSES, ids=lambda a: f"{a.key}-{'-'.join(a.recipes)}")
def test_every_address_is_a_protocol_recipe_and_data_set_of_this_program(address):
    for name in address.protocols:
        plain = name.removesuffix("-tv")
        protocol = next(
            each for each in (*IMAGE_PROTOCOLS, *DENSE_PROTOCOLS) if plain.startswith(each)
        )
        assert name == plain or protocol in DENSE_PROTOCOLS
        module = protocol_module(protocol)
        for recipe in address.recipes:
            assert recipes.protocol_id(protocol, module.RECIPES[recipe]) == plain
        assert set(address.datasets.values()) <= DATA.get(plain, {*DATASETS})
    assert any(address.holds(number.row) for number in published.read()), "it addresses nothing"


def test_every_key_and_data_set_of_the_file_is_addressed_or_named_as_not_measured():
    places = {(number.protocol, number.dataset) for number in published.read()}
    addressed = {(n.protocol, n.dataset) for n in published.read() if n.addresses}
    unmeasured = {place for place in places if place[0] in NOT_MEASURED} | {*NOT_MEASURED_ON}
    assert addressed | unmeasured == places
    assert not addressed & unmeasured
    assert set(NOT_MEASURED) <= {protocol for protocol, _ in places}


def test_a_number_is_at_one_address_only():
    assert max(len(number.addresses) for number in published.read()) == 1


def test_metrics_are_called_as_protocols_call_them():
    ours = {metric for address in ADDRESSES for metric in address.metrics.values()}
    assert ours == {
        *("top1", "top5", "mean_per_class", "mAP", "mAP_11point", "mIoU"),
        *("AP", "AP50", "AP75", "AP_mask", "AP50_mask", "AP75_mask"),
        *("AP_kp", "AP50_kp", "AP75_kp"),
        *(f"mAP_k{k}_best_on_test" for k in (1, 2, 4, 8, 16, 32, 64, 96)),
    }


@pytest.mark.parametrize(
    ("place", "where", "expected"),
    [
        # arXiv:1911.05722, table 2 (b); the repository's mean of five is another row.
        (
            ("detect", "voc-c4-24k", "voc07+12", "AP75"),
            {"method": "MoCo v1", "source": "arXiv 1911.05722 Table 2b", "pretrain_data": "IN-1M"},
            ["62.6"],
        ),
        # Table 5 (d), masks: random, supervised, MoCo on ImageNet and on Instagram.
        (
            ("segment-tv", "coco-c4-2x", "coco2017", "AP_mask"),
            {"source": "arXiv 1911.05722 Table 5d"},
            ["31.4", "34.7", "35.4", "35.6"],
        ),
        # Table 6: keypoints.
        (
            ("detect", "coco-keypoint-fpn-2x", "coco2017-keypoints", "AP50_kp"),
            {},
            ["86.5", "86.9", "87.4", "87.8"],
        ),
        # A.4: with norms frozen, only supervised encoders.
        (("detect", "lvis-fpn-1x-frozen-norms", "lvis-v0.5", "AP_mask"), {}, ["24.1"]),
        # arXiv:2003.04297, table 1 (e), in its repository and as SimSiam quotes it.
        (
            ("linear-sgd", "mocov2", "imagenet", "top1"),
            {"pretrain_epochs": "800", "method": "MoCo v2 (original)"},
            ["71.1"],
        ),
        (
            ("knn", "knn-20", "imagenet", "top1"),
            {"method": "DINO (DINO T2)", "params_m": "23"},
            ["67.5"],
        ),
        # arXiv:2105.04906, table 1.
        (("lowshot-finetune", "vicreg-1percent", "imagenet", "top5"), {}, ["79.4"]),
        # OpenSelfSup, MoCo v1 of 4 positives a class.
        (
            ("svm-lowshot", "voc07-lowshot", "voc07", "mAP_k4_best_on_test"),
            {"method": "MoCo v1 (OpenSelfSup)"},
            ["47.64"],
        ),
        # arXiv:2006.07733, table 3: BYOL on Pets, linear.
        (
            ("linear-lbfgs", "lbfgs-45", "pets", "mean_per_class"),
            {"method": "BYOL"},
            ["90.4"],
        ),
        # What nobody published: another recipe, another data set, a metric of ours alone.
        (("linear-sgd", "sgd-digits", "digits", "top1"), {}, []),
        (("detect", "voc-c4-24k", "voc07", "AP"), {}, []),
        (("detect", "voc-c4-24k", "voc07+12", "APs"), {}, []),
    ],
)
def test_published_numbers_are_found_by_our_own_names(place, where, expected):
    assert [number.value for number in published.lookup(*place, where)] == expected


def test_a_number_of_another_learning_rate_says_so():
    [number] = published.search(["SimSiam (optimal)"], protocol="voc_det_c4_24k", metric="AP75")
    assert "learning rate for each method" in number.addresses[0].note


def test_words_that_occur_nowhere_get_near_names():
    with pytest.raises(UsageError, match=r"'MoCo v5' is in no row; near to it: MoCo v"):
        published.search(["MoCo v5"])
    with pytest.raises(UsageError, match=r"'--dataset CIFAR10x' is in no row; near to it: cifar10"):
        published.search([], dataset="CIFAR10x")
    with pytest.raises(UsageError, match=r"'qqqqqqqq' is in no row; nothing is called nearly so"):
        published.search(["qqqqqqqq"])


def test_words_that_never_occur_together_are_said_to_do_so():
    with pytest.raises(UsageError, match="no row has them all: leave one out"):
        published.search(["VICReg", "densepose"])


def test_only_verified_leaves_out_the_others():
    assert len(published.search([], only_verified=True)) == 2050


@pytest.mark.parametrize("name", ["apmk", "AP_mask"])
def test_a_filter_takes_the_files_name_and_ours(name):
    assert {n.metric for n in published.search([], metric=name)} == {"APmk"}


def test_a_filter_takes_whole_names():
    # APbb50 holds APbb.
    assert {n.metric for n in published.search([], metric="APbb")} == {"APbb"}


def test_the_command_shows_metrics_side_by_side_with_the_source_in_full(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "1911.05722 Table 2b", "--method", "MoCo")
    assert code == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "6 published numbers found, from 1 source."
    assert "arXiv 1911.05722 Table 2b" in lines
    assert "here: detect, detect-tv; recipe voc-c4-24k; data voc07+12 [1]" in lines
    assert "method architecture trained on epochs AP50 AP AP75" in lines
    assert "MoCo v1 R50 IN-1M 200 81.5 55.9 62.6" in lines
    assert any("another engine" in line for line in lines)


def test_the_command_fits_a_terminal_of_100_columns_and_loses_no_text(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "--limit", "0")
    assert code == 0
    assert max(len(line) for line in out.splitlines()) <= 100
    folded = " ".join(out.split())
    for number in published.read():
        assert number.source in out
        assert number.method.split()[0] in folded
    assert sum(out.count(f"{n}*") for n in {n.value for n in published.read()}) >= 25


def test_the_command_says_how_many_it_does_not_show(monkeypatch, capsys):
    _, out, _ = run(monkeypatch, capsys, "2003.04297", "AP50", "--limit", "2")
    assert out.startswith(
        "5 published numbers found, from 1 source, 3 of them unverified (*); the first 2 are shown"
    )
    assert "82.2*" in out
    assert "82.4" not in out


def test_a_search_in_vain_ends_with_code_2(monkeypatch, capsys):
    code, out, err = run(monkeypatch, capsys, "MoCo v5")
    assert (code, out) == (2, "")
    assert "near to it: MoCo v" in err


def test_the_commands_csv_is_the_files_own(monkeypatch, capsys):
    code, out, err = run(monkeypatch, capsys, "--format", "csv")
    assert code == 0
    assert out == (ROOT / "results/published.csv").read_text()
    assert err.startswith("2,075 published numbers found, from 98 sources, 25 of them unverified")


def test_the_commands_json_has_numbers_and_where_they_are_measured(monkeypatch, capsys):
    _, out, _ = run(monkeypatch, capsys, "App. A.7", "IG-1B", "--format", "json")
    [row] = json.loads(out)
    assert (row["value"], row["number"], row["std"], row["verified"]) == ("77.3", 77.3, None, True)
    [place] = row["measured_by"]
    assert (place["protocols"], place["recipes"]) == (["finetune"], ["mocov1-imagenet"])
    assert (place["dataset"], place["metric"]) == ("imagenet", "top1")


def test_the_commands_markdown_marks_what_is_unverified(monkeypatch, capsys):
    _, out, _ = run(monkeypatch, capsys, "2003.04297", "AP75", "(b:", "--format", "md")
    assert "| AP75 | 63.2\\* | arXiv 2003.04297 Table 1 |" in out
    assert "\n\\* not yet compared with its source" in out


@pytest.mark.parametrize("wrong", [("--format", "xml"), ("--limit", "-1")])
def test_the_command_refuses_what_it_does_not_know(monkeypatch, capsys, wrong):
    code, _, err = run(monkeypatch, capsys, "moco", *wrong)
    assert code == 2
    assert wrong[1] in err


def test_the_numbers_are_found_from_an_installed_package(tmp_path):
    # As a wheel lays it out: the folder is the package moco_eval.results.
    package = tmp_path / "moco_eval"
    (package / "results").mkdir(parents=True)
    for name in ("__init__.py", "errors.py", "published.py", "published_addresses.py"):
        (package / name).write_bytes((ROOT / "moco_eval" / name).read_bytes())
    for name in ("__init__.py", "published.csv"):
        (package / "results" / name).write_bytes((ROOT / "results" / name).read_bytes())
    script = "from moco_eval import published; print(len(published.read()), published.__file__)"
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["2075", str(package / "published.py")]


def test_addresses_give_reasons():
    for reason in (*NOT_MEASURED.values(), *NOT_MEASURED_ON.values()):
        assert reason.strip()
    assert published_addresses.addresses_of(published.read()[0].row) == list(
        published.read()[0].addresses
    )

"""What a report holds, before it becomes a page."""

import base64
import dataclasses
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from moco_eval.files import sha256_of
from moco_eval.report import cost, details, heat_map, leavings, picture
from moco_eval.report.comparison import compare
from moco_eval.report.content import MAX_PICTURED, Sources, gather
from moco_eval.report.page import html
from moco_eval.report.summary import summarize
from moco_eval.store import read_all
from moco_eval.tables.layout import Layout


def encoder(name, weights, **manifest):
    facts = {"tensor_sha256": weights, "num_params": 7, "source": "x.pth", **manifest}
    return {"encoder_id": name, "encoder": facts}


def report_of(results, *, pictures="none", **layout):
    found, problems = read_all(results)
    work = results.parent / "work"
    sources = Sources(results=results, work=work, pictures=pictures, layout=Layout(**layout))
    return gather(found, problems, sources)


def test_runs_that_differ_by_the_seed_are_averaged_and_of_a_seed_the_newest_counts(
    tmp_path, write_run
):
    for top1, seed in ((1.0, 0), (90.0, 0), (94.0, 1)):
        write_run(tmp_path, {"top1": top1, "ece": 2.0}, seed=seed, wall_s=seed + 1.0)
    [summary] = summarize(read_all(tmp_path)[0])
    # 90 and 94, as the first run of seed 0 was run again; s.d. of two is their distance / sqrt 2.
    assert summary.primary.mean == 92.0
    assert summary.primary.sd == pytest.approx(4 / 2**0.5)
    assert summary.costs["wall_s"] == 1.5
    assert [metric.name for metric in summary.metrics] == ["top1", "ece"]
    assert summary.label == "knn@1 knn-20 on digits"


def test_other_settings_are_never_averaged(tmp_path, write_run):
    write_run(tmp_path, {"top1": 90.0})
    write_run(tmp_path, {"top1": 50.0}, config={"k": 7}, deviations={"k": 7}, seed=1)
    assert sorted(each.primary.mean for each in summarize(read_all(tmp_path)[0])) == [50.0, 90.0]


def test_the_heat_map_says_how_far_better_than_its_column_each_is(tmp_path, write_run):
    # 10, 20 and 60 have mean 30 and s.d. sqrt((400 + 100 + 900) / 2) = 26.4575.
    for name, top1 in (("a", 10.0), ("b", 20.0), ("c", 60.0)):
        write_run(tmp_path / "r", {"top1": top1}, **encoder(name, name))
        # An error, of which less is better; without c a column of two: z is half of sqrt 2.
        if name != "c":
            write_run(tmp_path / "r", {"ece": top1}, protocol="other", **encoder(name, name))
    summaries = summarize(read_all(tmp_path / "r")[0])
    path = heat_map.draw(summaries, ["a", "b", "c"], tmp_path)
    frame = pd.read_csv(path.with_suffix(".csv")).set_index(["task", "encoder"])
    knn = frame.loc["knn@1 knn-20 on digits top1"]
    assert knn["z"].tolist() == pytest.approx(
        [-20 / 26.4575, -10 / 26.4575, 30 / 26.4575], abs=1e-4
    )
    assert set(knn["sd_encoders"]) == {26.4575}
    assert set(knn["n_encoders"]) == {3}
    other = frame.loc["other@1 knn-20 on digits ece"]
    assert other["z"].tolist() == pytest.approx([0.5**0.5, -(0.5**0.5)], abs=1e-4)


def test_a_column_of_equal_numbers_and_one_of_a_single_number_have_no_colour(tmp_path, write_run):
    for name in ("a", "b"):
        write_run(tmp_path / "r", {"top1": 10.0}, **encoder(name, name))
    write_run(tmp_path / "r", {"top1": 10.0}, protocol="other", **encoder("a", "a"))
    path = heat_map.draw(summarize(read_all(tmp_path / "r")[0]), ["a", "b"], tmp_path)
    frame = pd.read_csv(path.with_suffix(".csv"))
    assert frame["z"][frame["task"].str.startswith("knn")].tolist() == [0, 0]
    assert frame["z"][frame["task"].str.startswith("other")].isna().all()


def test_cost_is_of_the_device_only_where_every_record_knows_it(tmp_path, write_run):
    made = [
        write_run(tmp_path / "r", {"top1": 10.0}, wall_s=5.0, **encoder(name, name))
        for name in ("a", "b")
    ]
    with_device = [
        {**r, "time": {"wall_s": 5.0, "device_s": 40.0}, "name": r["name"]} for r in made
    ]
    for records, seconds, kind in (
        (with_device, 40.0, "device"),
        ([with_device[0], {**made[1], "time": {"wall_s": 5.0, "device_s": None}}], 5.0, "wall"),
    ):
        path = cost.draw(summarize(records), ["a", "b"], tmp_path)
        frame = pd.read_csv(path.with_suffix(".csv"))
        assert set(frame["seconds"]) == {seconds}
        assert set(frame["kind"]) == {kind}


def run(seed=0, **told):
    return {"seed": seed, "details": {"selection": told}}


@pytest.mark.parametrize(
    ("told", "rows"),
    [
        (
            {"by_c": {"0.1": {"top1": 60.0}, "10": {"top1": 70.0}}, "chosen": 10.0},
            [
                {"c": 0.1, "top1": 60.0, "chosen": False},
                {"c": 10.0, "top1": 70.0, "chosen": True},
            ],
        ),
        (
            {"by_lambda": {"0.5": {"top1": 60.0}}, "chosen": 0.5, "lambda": 77.0},
            [{"lambda": 0.5, "top1": 60.0, "chosen": True}],
        ),
        (
            {
                "by_head": [{"lr": 1.0, "top1": 60.0}, {"lr": 3.0, "top1": 50.0}],
                "chosen": {"lr": 3.0},
            },
            [
                {"lr": 1.0, "top1": 60.0, "chosen": False},
                {"lr": 3.0, "top1": 50.0, "chosen": True},
            ],
        ),
        (
            {"score_by_lr": {"0.02": 30.0}, "lr": 0.02, "judged_on": "1 in 10"},
            [{"lr": 0.02, "AP": 30.0, "chosen": True}],
        ),
        # One of the classes has no positive in a fold: the mean is over the other.
        (
            {"by_class": {"cat": {"1": 40.0}, "dog": {"1": float("nan")}}, "chosen": {"cat": 1.0}},
            [{"c": 1.0, "mAP": 40.0}],
        ),
        ({"what": "nothing"}, []),
    ],
)
def test_settings_are_read_whatever_the_shape_in_which_a_protocol_tells_them(told, rows):
    assert details.tried([run(**told)]) == rows


def test_a_setting_is_marked_only_where_all_seeds_chose_it():
    scores = {"by_c": {"1": {"top1": 60.0}, "10": {"top1": 70.0}}}
    same = details.tried([run(**scores, chosen=10.0), run(seed=1, **scores, chosen=10.0)])
    assert [row["chosen"] for row in same] == [False, True] * 2
    other = details.tried([run(**scores, chosen=10.0), run(seed=1, **scores, chosen=1.0)])
    assert not any("chosen" in row for row in other)


def test_curves_have_a_line_a_seed():
    by_shots = {"2": {"mAP_by_draw": [10.0, 30.0]}, "16": {"mAP_by_draw": [50.0]}}
    runs = [
        {"details": {"selection": {"test_top1_by_epoch": [10.0, 20.0]}, "by_shots": by_shots}},
        {"details": {"selection": {"test_top1_by_epoch": [None, 40.0]}}},
    ]
    epochs, shots = details.curves(runs)
    # A line with a hole is none.
    assert epochs.lines == ({1.0: 10.0, 2.0: 20.0},)
    assert shots.lines == ({2.0: 20.0, 16.0: 50.0},)


def test_classes_are_means_over_seeds_and_sorted(tmp_path, write_run):
    for seed, cat in ((0, 40.0), (1, 60.0)):
        told = {"AP_by_class": {"cat": cat, "dog": 90.0}}
        write_run(tmp_path, {"mAP": 70.0}, details=told, seed=seed)
    [summary] = summarize(read_all(tmp_path)[0])
    [shown] = details.pictures_of(summary)
    frame = pd.read_csv(io.StringIO(shown.csv))
    assert frame["class"].tolist() == ["dog", "cat"]
    assert frame["AP"].tolist() == [90.0, 50.0]


def test_of_each_cell_the_first_seeds_newest_run_is_shown(tmp_path, write_run):
    made = [write_run(tmp_path, {"top1": 9.0}, seed=seed) for seed in (1, 0, 0, 2)]
    made += [write_run(tmp_path, {}, seed=0, status="failed")]
    made += [write_run(tmp_path, {"top1": 9.0}, seed=5, protocol="other")]
    shown = [record["run_id"] for record in leavings.shown_runs(made, "first-seed")]
    assert shown == [made[2]["run_id"], made[5]["run_id"]]
    assert len(leavings.shown_runs(made, "all")) == 5
    assert leavings.shown_runs(made, "none") == []


def test_pictures_are_found_by_the_run_that_left_them(store, report):
    titles = [[gallery.title for gallery in each.galleries] for each in report.sections]
    told = "From the records of all seeds"
    assert titles == [["knn@1 knn-20 on digits, seed 0", told]] * 2 + [
        ["knn@1 knn-20 on digits, seed 0"]
    ]
    names = [shown.name for shown in report.sections[0].galleries[0].pictures]
    assert names == ["per_class", "confusion", "reliability"]
    # With all there are those of the second seed, too; and whoever shows none looks for none.
    found, problems = read_all(store / "results")
    sources = Sources(results=store / "results", work=store / "work", pictures="all")
    shown = gather(found, problems, sources).sections[0].galleries
    assert [gallery.title for gallery in shown][:2] == [
        "knn@1 knn-20 on digits, seed 0",
        "knn@1 knn-20 on digits, seed 1",
    ]
    none = gather(found, problems, dataclasses.replace(sources, pictures="none"))
    assert not any(each.galleries for each in none.sections)
    assert none.pictures == ()


def test_what_a_run_drew_itself_is_not_drawn_again(tmp_path, write_run, drawn):
    told = {"by_c": {"1": {"top1": 60.0}, "10": {"top1": 70.0}}, "chosen": 10.0}
    told |= {"what": "C", "by": "top1", "on": "a slice"}
    made = write_run(tmp_path / "results", {"top1": 9.0}, details={"selection": told})
    assert [g.title for g in report_of(tmp_path / "results", pictures="all").sections[0].galleries]
    folder = tmp_path / "work" / "run"
    folder.mkdir(parents=True)
    (folder / "sensitivity.png").write_bytes((drawn / "per_class.png").read_bytes())
    (folder / "run_id").write_text(made["run_id"])
    [gallery] = report_of(tmp_path / "results", pictures="all").sections[0].galleries
    assert gallery.title.endswith("seed 0")
    assert [shown.name for shown in gallery.pictures] == ["sensitivity"]


def test_a_damaged_picture_is_told_of_and_left_out(tmp_path, drawn, capsys):
    good = (drawn / "per_class.png").read_bytes()
    (tmp_path / "per_class.png").write_bytes(good)
    (tmp_path / "confusion.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "map.png").write_bytes(b"no picture")
    assert [shown.name for shown in leavings.pictures_in(tmp_path)] == ["per_class"]
    said = capsys.readouterr().err
    assert "confusion.png is left out" in said
    assert "map.png is left out" in said


def test_pretraining_is_shown_only_beside_the_checkpoint_that_it_made(tmp_path, drawn):
    folder = tmp_path / "runs"
    folder.mkdir()
    (folder / "checkpoint.pth.tar").write_bytes(b"weights")
    for name in ("loss", "knn", "not_of_pretraining"):
        (folder / f"{name}.png").write_bytes((drawn / "per_class.png").read_bytes())
    manifest = {
        "source": "runs/checkpoint.pth.tar",
        "file_sha256": sha256_of(folder / "checkpoint.pth.tar"),
    }
    shown = leavings.pretraining_pictures(manifest, tmp_path / "results")
    assert [each.name for each in shown] == ["loss", "knn"]
    other = {**manifest, "file_sha256": "another pretraining's"}
    assert leavings.pretraining_pictures(other, tmp_path / "results") == []
    assert leavings.pretraining_pictures({"source": "pixels"}, tmp_path / "results") == []


def test_tables_whose_records_cannot_be_compared_say_why_and_the_others_stay(tmp_path, write_run):
    data = {"id": "digits", "num_train": 9, "num_test": 9, "fingerprint": "another"}
    write_run(tmp_path, {"top1": 9.0}, **encoder("a", "a"))
    write_run(tmp_path, {"top1": 9.0}, dataset=data, **encoder("b", "b"))
    write_run(tmp_path, {"AP": 9.0}, protocol="detect", **encoder("a", "a"))
    images, dense = report_of(tmp_path).comparisons
    assert images.grid is None
    assert "dataset.fingerprint is f0" in images.problem
    assert [row.label for row in dense.grid.rows] == ["a"]
    assert "dataset.fingerprint is f0" in html(report_of(tmp_path))


def test_a_family_without_the_baseline_has_no_deltas(tmp_path, write_run):
    write_run(tmp_path, {"top1": 9.0}, **encoder("a", "a"))
    write_run(tmp_path, {"top1": 5.0}, **encoder("b", "b"))
    write_run(tmp_path, {"AP": 9.0}, protocol="detect", **encoder("b", "b"))
    found, _ = read_all(tmp_path)
    images, dense = compare(found, Layout(baseline="a"))
    assert "−4.0" in images.grid.rows[1].entries[0].delta
    assert dense.grid.rows[0].entries[0].delta == ""


def test_a_store_without_records_says_how_to_make_one(tmp_path):
    page = html(report_of(tmp_path))
    assert "There are no records yet" in page
    assert page.count("<h2") == 2


def test_an_encoder_alone_is_compared_with_nothing(tmp_path, write_run):
    write_run(tmp_path, {"top1": 9.0})
    report = report_of(tmp_path, pictures="all")
    assert report.pictures == ()
    assert len(report.sections) == 1


def test_failed_and_stopped_runs_are_told_of_with_their_reasons(tmp_path, write_run):
    write_run(tmp_path, {}, status="failed", error="Loss is nan.", seed=3)
    write_run(tmp_path, {}, status="preempted", error="SIGTERM came.")
    [section] = report_of(tmp_path).sections
    failed, stopped = section.failures
    assert failed.startswith("knn@1 knn-20 on digits, seed 3, failed (")
    assert failed.endswith("): Loss is nan.")
    assert "was stopped before its end" in stopped
    facts = dict(report_of(tmp_path).facts)
    assert facts["Records"] == "2, of which 1 failed, 1 stopped before their end"


def test_departures_choices_and_damaged_images_are_told_of(tmp_path, write_run):
    data = {"id": "digits", "num_train": 9, "num_test": 9, "fingerprint": "f0"}
    data |= {"num_damaged": 3, "damaged_policy": "skip"}
    told = {
        "by_c": {"1": {"top1": 60.0}},
        "chosen": 1.0,
        "what": "C",
        "by": "top1",
        "on": "a slice",
    }
    changes = {"dataset": data, "config": {"k": 7}, "deviations": {"k": 7}}
    write_run(tmp_path, {"top1": 9.0}, details={"selection": told}, **changes)
    [section] = report_of(tmp_path).sections
    assert section.results.rows[0].entries[0].marks == "†"
    assert section.results.notes == (
        "† knn@1 knn-20 on digits departs from its recipe: k=7.",
        "knn@1 knn-20 on digits: 3 damaged images were left out, by the policy 'skip'.",
    )
    assert section.metrics.notes == ("knn@1 knn-20 on digits: C, by top1, on a slice: 1.",)


def test_weights_that_share_a_name_have_a_manifest_each(tmp_path, write_run):
    write_run(tmp_path, {"top1": 9.0}, **encoder("a", "one"))
    write_run(tmp_path, {"AP": 9.0}, protocol="detect", **encoder("a", "two"))
    [section] = report_of(tmp_path).sections
    hashes = [dict(manifest[0][1])["hash of its tensors"] for manifest in section.manifests]
    assert hashes == ["one", "two"]
    assert "Manifest of weights 2 of 2" in html(report_of(tmp_path))


def test_hundreds_of_encoders_make_a_page_with_the_pictures_of_the_first(
    tmp_path, write_run, drawn
):
    for number in range(200):
        made = write_run(
            tmp_path / "results", {"top1": number / 2}, **encoder(f"encoder {number}", str(number))
        )
        if number in (MAX_PICTURED - 1, MAX_PICTURED):
            folder = tmp_path / "work" / str(number)
            folder.mkdir(parents=True)
            (folder / "per_class.png").write_bytes((drawn / "per_class.png").read_bytes())
            (folder / "run_id").write_text(made["run_id"])
    report = report_of(tmp_path / "results", pictures="all")
    pictured = [number for number, each in enumerate(report.sections) if each.num_pictures]
    assert pictured == [MAX_PICTURED - 1]
    page = html(report)
    assert page.count("<article") == 200
    assert "Pictures are shown of the first 40 encoders" in page
    # The heat map shows as many as can be read, and says how many it leaves out.
    assert heat_map.MAX_ROWS == 40
    assert "of 40 encoders on 1 task" in report.pictures[0].alt


def test_a_page_made_again_is_the_same_to_the_byte(store, report, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, problems = read_all(store / "results")
    layout = Layout(baseline="random init")
    sources = Sources(results=store / "results", work=store / "work", layout=layout)
    assert html(gather(found, problems, sources)) == html(report)


def test_a_picture_on_the_page_is_as_large_as_in_print_and_no_wider_than_it_can_be_shown():
    def made(width, height):
        buffer = io.BytesIO()
        Image.new("RGB", (width, height), "#0072B2").save(buffer, "PNG")
        return picture.Picture(name="x", title="x", alt="x", png=buffer.getvalue())

    # 150 pixels of a picture are an inch, and so are 96 of CSS.
    assert made(1500, 300).size == (960, 192)
    for (width, height), wanted in (((300, 30), (300, 30)), ((3200, 200), (1600, 100))):
        head, code = picture.as_uri(made(width, height)).split(",")
        assert head == "data:image/webp;base64"
        with Image.open(io.BytesIO(base64.b64decode(code))) as shown:
            assert shown.size == wanted
            # Without loss.
            assert np.unique(np.asarray(shown.convert("RGB")).reshape(-1, 3), axis=0).tolist() == [
                [0x00, 0x72, 0xB2]
            ]


def test_numbers_too_many_for_a_page_are_left_where_they_are(tmp_path, drawn):
    (tmp_path / "map.png").write_bytes((drawn / "per_class.png").read_bytes())
    (tmp_path / "map.csv").write_text("x\n" * 10)
    assert picture.read(tmp_path / "map.png").csv
    (tmp_path / "map.csv").write_text("x\n" * picture.MAX_CSV)
    assert picture.read(tmp_path / "map.png").csv == ""

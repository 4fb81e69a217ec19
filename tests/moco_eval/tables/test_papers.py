from collections import Counter
from dataclasses import replace

import pytest
from papers_shown import shown
from trial_records import record, stored, trials

from moco_eval import tables
from moco_eval.errors import UsageError
from moco_eval.tables import papers
from moco_eval.tables.papers import moco_v1
from moco_eval.tables.papers.measured import sources

C4 = {"protocol": "detect", "recipe": "voc-c4-24k", "dataset": "voc07+12", "metric": "AP"}


def c4(encoder, ap, **changes):
    """A run of VOC07+12 with AP50 30 and AP75 5 points above and below AP."""
    others = (("AP50", ap + 30), ("AP75", ap - 5))
    return record(encoder, ap, others=others, **{**C4, **changes})


def rows(grid):
    """Label, whether published, whether ruled, and what is in the cells."""
    return [
        (
            row.label,
            row.is_published,
            [e.text + (f" ({e.delta})" if e.delta else "") + e.marks for e in row.entries],
        )
        for row in grid.rows
    ]


def row(grid, label):
    [found] = [cells for name, _, cells in rows(grid) if name == label]
    return found


def test_all_tables_are_known_by_id_and_title():
    known = papers.known()
    assert len(known) == 44
    assert Counter(name.partition("/")[0] for name in known) == {
        **{"moco-v1": 12, "moco-v2": 4, "moco-v3": 15, "simsiam": 3},
        **{"simclr": 2, "byol": 4, "vicreg": 3, "dino": 1},
    }
    assert known["moco-v1/table2"].startswith("Object detection on PASCAL VOC")


def test_an_unknown_table_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'moco-v1/table2'"):
        papers.grid("moco-v1/tabl2", (), beside={})


@pytest.mark.parametrize("table", papers.TABLES.values(), ids=lambda table: table.id)
def test_a_table_speaks_of_its_own_rows_and_columns_alone(table):
    labels = [row.label for row in table.rows]
    keys = [column.key for column in table.columns]
    assert len(set(labels)) == len(labels)
    assert len(set(keys)) == len(keys)
    assert not table.baseline or table.baseline in labels
    for each in table.rows:
        assert set(each.cells) <= set(keys)
        assert not each.has_deltas or table.baseline
    # Every number is of the paper, or of the one that the paper repeats, and none stands twice.
    numbers = [n for r in table.rows for c in table.columns if (n := table.number(r, c))]
    assert len(set(map(id, numbers))) == len(numbers)


@pytest.mark.parametrize(("where", "count"), [({"method": "MoCo v9"}, 0), ({}, 4)])
def test_a_cell_that_none_or_several_numbers_answer_is_an_error_that_names_it(where, count):
    table = moco_v1.TABLE_2
    wrong = replace(table.rows[0], where=where)
    with pytest.raises(AssertionError) as error:
        table.number(wrong, table.columns[3])
    assert f"row 'random init.', column '(b) Faster R-CNN, R50-C4 AP50': {count} pub" in str(
        error.value
    )


def test_what_nobody_checked_is_marked_and_explained_and_nothing_else_is():
    for name, table in papers.TABLES.items():
        grid = papers.grid(name, (), beside={})
        marked = [e for r in grid.rows for e in r.entries if e.marks]
        unverified = [
            n
            for r in table.rows
            for c in table.columns
            if (n := table.number(r, c)) and not n.is_verified
        ]
        assert [entry.marks for entry in marked] == ["*"] * len(unverified)
        assert any(note.startswith("* not yet compared") for note in grid.notes) == bool(marked)
    assert len([n for n in papers.grid("moco-v2/table1", (), beside={}).notes if "* " in n]) == 1


def test_the_paper_and_the_rows_of_the_file_are_named_under_the_table():
    *_, note = papers.grid("moco-v2/table1", (), beside={}).notes
    assert "arXiv:2003.04297, Table 1" in note
    assert note.endswith("arXiv 2003.04297 Table 1; arXiv 1911.05722 Table 2b.")


def test_differences_are_coloured_from_half_a_point_on():
    # DC5: 81.1 - 81.4 = -0.3, 54.6 - 54.0 = +0.6; Table 6, VOC semantic: 72.5 - 74.4 = -1.9.
    entries = papers.grid("moco-v1/table2", (), beside={}).rows[2].entries
    assert [entry.tone for entry in entries[:2]] == ["", "better"]
    keypoints = papers.grid("moco-v1/table6", (), beside={}).rows[2].entries
    assert keypoints[1].delta == "+0.5"
    assert keypoints[1].tone == "better"
    assert keypoints[-1].tone == "worse"


def test_columns_say_what_measures_them_here():
    first, *_, last = moco_v1.TABLE_2.columns
    assert list(map(str, sources(moco_v1.TABLE_2, first))) == [
        "detect, recipe voc-dc5-24k, on voc07+12",
        "detect-tv, recipe voc-dc5-24k, on voc07+12",
    ]
    assert {source.metric for source in sources(moco_v1.TABLE_2, last)} == {"AP75"}


def test_what_has_no_column_leaves_a_table_as_published():
    records = stored([*trials("Random", [96.0, 97.0]), c4("MoCo", 55.0, recipe="digits-c4")])
    assert papers.grid("moco-v1/table2", records, beside={}) == papers.grid(
        "moco-v1/table2", (), beside={}
    )


def test_settings_of_pretraining_have_no_measured_rows():
    probe = {"protocol": "linear-sgd", "recipe": "mocov1", "dataset": "imagenet"}
    records = stored(trials("MoCo", [60.0], **probe))
    assert shown("moco-v1/figure3", records) == shown("moco-v1/figure3")
    assert shown("moco-v1/table1", records)[-4:] == ["MoCo", ".", ".", "60.0(1)"]


def test_measured_rows_stand_under_their_published_ones_and_the_rest_below_a_rule():
    records = stored(
        [
            *(c4("ours", ap, seed=seed) for seed, ap in enumerate([55.0, 55.4])),
            c4("sup", 53.0),
            c4("another", 40.0),
        ]
    )
    grid = papers.grid(
        "moco-v1/table2", records, beside={"ours": "MoCo IN-1M", "sup": "super. IN-1M"}
    )
    assert [(label, published) for label, published, _ in rows(grid)] == [
        ("random init.", True),
        ("super. IN-1M", True),
        ("sup", False),
        ("MoCo IN-1M", True),
        ("ours", False),
        ("MoCo IG-1B", True),
        ("another", False),
    ]
    assert [each.label for each in grid.rows if each.has_rule] == ["another"]


def test_measured_rows_are_averaged_over_seeds_and_compared_with_the_measured_baseline():
    # AP: (55.0 + 55.4) / 2 = 55.2, sample s.d. sqrt(0.04 + 0.04) = 0.283, against 53.0: +2.2;
    # AP50 and AP75 lie 30 above and 5 below. The dilated column was not run.
    records = stored(
        [*(c4("ours", ap, seed=seed) for seed, ap in enumerate([55.0, 55.4])), c4("sup", 53.0)]
    )
    beside = {"ours": "MoCo IN-1M", "sup": "super. IN-1M"}
    grid = papers.grid("moco-v1/table2", records, beside=beside)
    own = ["85.2 ± 0.3 (2) (+2.2)", "55.2 ± 0.3 (2) (+2.2)", "50.2 ± 0.3 (2) (+2.2)"]
    assert row(grid, "ours") == ["–", "–", "–", *own]
    assert row(grid, "sup") == ["–", "–", "–", "83.0 (1)", "53.0 (1)", "48.0 (1)"]
    # The published ones are as they are without any record.
    bare = papers.grid("moco-v1/table2", (), beside={})
    assert [r for r in rows(grid) if r[1]] == rows(bare)
    told = " ".join(grid.notes)
    assert "in brackets the difference to sup. –: not run." in told
    assert (
        "detect@1, recipe voc-c4-24k, on voc07+12: (b) Faster R-CNN, R50-C4, AP50 AP AP75" in told
    )
    assert "published with Detectron2" in told
    assert "3 records, sha256 of their names" in told


def test_without_a_measured_baseline_there_are_no_differences_to_a_published_one():
    records = stored([c4("ours", 55.0)])
    grid = papers.grid("moco-v1/table2", records, beside={"ours": "MoCo IN-1M"})
    assert row(grid, "ours")[3:] == ["85.0 (1)", "55.0 (1)", "50.0 (1)"]


def test_another_engine_is_a_row_of_its_own_that_says_so_and_is_compared_with_itself():
    tv = {"protocol": "detect-tv", "engine": "torchvision"}
    records = stored(
        [c4("sup", 53.0), c4("sup", 50.0, **tv), c4("ours", 55.0), c4("ours", 51.5, **tv)]
    )
    beside = {"ours": "MoCo IN-1M", "sup": "super. IN-1M"}
    grid = papers.grid("moco-v1/table2", records, beside=beside)
    assert row(grid, "ours (detect)")[4] == "55.0 (1) (+2.0)"
    assert row(grid, "ours (detect-tv)")[4] == "51.5 (1) (+1.5)¶"
    [note] = [note for note in grid.notes if note.startswith("¶")]
    assert "sup (detect-tv), (b) Faster R-CNN, R50-C4, AP50 AP AP75" in note
    assert any("detect-tv@1" in note and "engine torchvision" in note for note in grid.notes)


def test_a_column_of_two_recipes_gives_a_row_for_each():
    probe = {"protocol": "linear-sgd", "dataset": "imagenet"}
    records = stored(
        [
            record("ours", 61.0, recipe="mocov2", **probe),
            record("ours", 60.0, recipe="mocov1", **probe),
        ]
    )
    grid = papers.grid("moco-v1/table1", records, beside={})
    assert row(grid, "ours (mocov1)")[-1] == "60.0 (1)"
    assert row(grid, "ours (mocov2)")[-1] == "61.0 (1)"


def test_versions_of_a_protocol_are_not_averaged():
    records = stored([c4("ours", 50.0, version=1), c4("ours", 60.0, version=2, seed=1)])
    grid = papers.grid("moco-v1/table2", records, beside={})
    assert row(grid, "ours (detect 2)")[4] == "60.0 (1)"
    assert row(grid, "ours (detect 1)")[4] == "50.0 (1)"


def test_failures_deviations_and_lost_seeds_show():
    records = stored(
        [
            record("broken", None, status="failed", **C4),
            c4("ours", 55.0, deviations=(("lr", 0.1),)),
            record("ours", None, seed=1, status="failed", deviations=(("lr", 0.1),), **C4),
        ]
    )
    grid = papers.grid("moco-v1/table2", records, beside={})
    assert row(grid, "broken")[3:] == ["fail"] * 3
    assert row(grid, "ours")[4] == "55.0 (1)†‡"
    told = " ".join(grid.notes)
    assert "† departs from recipe voc-c4-24k (lr=0.1): ours, (b) Faster R-CNN, R50-C4" in told
    assert "‡ failed and not in the mean (seed 1): ours" in told
    assert "fail: no seed succeeded" in told


def test_records_of_other_data_are_refused_by_name():
    records = stored([c4("ours", 55.0), c4("sup", 53.0, fingerprint="f1")])
    with pytest.raises(UsageError, match=r"cannot be compared: dataset.fingerprint"):
        papers.grid("moco-v1/table2", records, beside={})


def test_an_architecture_fills_its_own_column_alone():
    probe = {"protocol": "linear-sgd", "recipe": "mocov3-vit", "dataset": "imagenet"}
    [small] = stored([record("ours", 73.0, **probe)])
    small["encoder"]["arch"] = "vit_small_patch16_224"
    # R50, ViT-S, ViT-B.
    assert row(papers.grid("moco-v3/table4", [small], beside={}), "ours") == ["–", "73.0 (1)", "–"]


def test_a_pairing_needs_a_row_of_the_table_and_an_encoder_that_has_a_column_of_it():
    records = stored([c4("ours", 55.0), *trials("Random", [96.0])])
    with pytest.raises(UsageError, match=r"no row of moco-v1/table2 called 'MoCo'\. Did you mean"):
        papers.grid("moco-v1/table2", records, beside={"ours": "MoCo"})
    with pytest.raises(
        UsageError, match=r"encoder called 'Random'.*that have one: ours. .*voc-dc5"
    ):
        papers.grid("moco-v1/table2", records, beside={"Random": "MoCo IN-1M"})


def test_engines_are_never_in_one_row():
    tv = {"protocol": "detect-tv", "engine": "torchvision", "recipe": "voc-dc5-24k"}
    records = stored([c4("ours", 55.0), c4("ours", 51.5, **tv)])
    grid = papers.grid("moco-v1/table2", records, beside={})
    assert row(grid, "ours (detect)")[1::3] == ["–", "55.0 (1)"]
    assert row(grid, "ours (detect-tv)")[1::3] == ["51.5 (1)¶", "–"]


def test_the_newest_run_of_a_seed_counts_in_whatever_order_records_are_read():
    # AP of 54 was measured last; encoders stand in the order of their first records.
    records = stored([c4("first", 50.0), c4("second", 40.0), c4("first", 54.0)])
    grid = papers.grid("moco-v1/table2", records, beside={})
    assert row(grid, "first")[4] == "54.0 (1)"
    assert [label for label, published, _ in rows(grid) if not published] == ["first", "second"]
    assert papers.grid("moco-v1/table2", records[::-1], beside={}) == grid


@pytest.mark.parametrize("name", papers.TABLES)
def test_every_table_is_typeset_in_every_format(name):
    grid = papers.grid(name, (), beside={})
    assert len(grid.columns) == len(grid.higher_better)
    assert {len(each.entries) for each in grid.rows} == {len(grid.columns)}
    assert not grid.groups or sum(span for _, span in grid.groups) == len(grid.columns)
    for form in ("md", "latex", "csv", "html"):
        text = tables.render(grid, form)
        assert text.endswith("\n")
        # pdfLaTeX must have every character.
        assert "XeLaTeX" not in text

"""MoCo v1's tables, cell by cell.

The numbers were typed from a transcript of the paper's own tables (arXiv:1911.05722), not from
published.csv; differences to the supervised row were worked out by hand. ``.`` is an empty cell.
"""

import pytest
from papers_shown import shown

TABLES = {
    "moco-v1/figure3": """
        end-to-end  | 54.9 56.3 57.3    .    .    .
        memory bank | 50.0 52.0 54.1 56.5 57.8 58.0
        MoCo        | 54.7 56.4 57.5 59.0 60.4 60.6
    """,
    "moco-v1/momentum": """
        accuracy (%) | 55.2 57.8 59.0 58.9
    """,
    "moco-v1/table1": """
        Exemplar          | R50w3x      211 46.0
        RelativePosition  | R50w2x       94 51.4
        Jigsaw            | R50w2x       94 44.6
        Rotation          | Rv50w4x      86 55.4
        Colorization      | R101*        28 39.6
        DeepCluster       | VGG          15 48.4
        BigBiGAN, R50     | R50          24 56.6
        BigBiGAN, Rv50w4x | Rv50w4x      86 61.3
        InstDisc          | R50          24 54.0
        LocalAgg          | R50          24 58.8
        CPC v1            | R101*        28 48.7
        CPC v2            | R170*wider  303 65.9
        CMC, R50 +        | R50_L+ab     47 64.1
        CMC, R50w2x +     | R50w2x_L+ab 188 68.4
        AMDIM small +     | AMDIM       194 63.5
        AMDIM large +     | AMDIM       626 68.1
        MoCo, R50         | R50          24 60.6
        MoCo, RX50        | RX50         46 63.9
        MoCo, R50w2x      | R50w2x       94 65.4
        MoCo, R50w4x      | R50w4x      375 68.6
    """,
    # AP50, AP, AP75 of R50-dilated-C5, then of R50-C4.
    "moco-v1/table2": """
        random init. | 64.4       37.9       38.6       | 60.2       33.8       33.1
        super. IN-1M | 81.4       54.0       59.1       | 81.3       53.5       58.8
        MoCo IN-1M   | 81.1(-0.3) 54.6(+0.6) 59.9(+0.8) | 81.5(+0.2) 55.9(+2.4) 62.6(+3.8)
        MoCo IG-1B   | 81.6(+0.2) 55.5(+1.5) 61.2(+2.1) | 82.2(+0.9) 57.2(+3.7) 63.7(+4.9)
    """,
    "moco-v1/table3": """
        end-to-end  | 79.2 52.0 56.6 | 80.4 54.6 60.3
        memory bank | 79.8 52.9 57.9 | 80.6 54.9 60.6
        MoCo        | 81.1 54.6 59.9 | 81.5 55.9 62.6
    """,
    # AP50 of RelPos, Multi-task, Jigsaw, LocalAgg, MoCo; AP of MoCo; AP75 of Multi-task, MoCo.
    "moco-v1/table4": """
        super. IN-1M
            | 74.2       74.2       70.5       74.6       74.4
            | 42.4       | 44.3       42.7
        unsup. IN-1M
            | 66.8(-7.4) 70.5(-3.7) 61.4(-9.1) 69.1(-5.5) 74.9(+0.5)
            | 46.6(+4.2) | 43.9(-0.4) 50.1(+7.4)
        unsup. IN-14M
            | .          .          69.2(-1.3) .          75.2(+0.8)
            | 46.9(+4.5) | .          50.2(+7.5)
        unsup. YFCC-100M
            | .          .          66.6(-3.9) .          74.7(+0.3)
            | 45.9(+3.5) | .          49.0(+6.3)
        unsup. IG-1B
            | .          .          .          .          75.6(+1.2)
            | 47.6(+5.2) | .          51.7(+9.0)
    """,
    # FPN 1x, FPN 2x, C4 1x, C4 2x; AP, AP50, AP75 of boxes, then of masks.
    "moco-v1/table5": """
        random init.
            | 31.0 49.5 33.2 | 28.5 46.8 30.4
            | 36.7 56.7 40.0 | 33.7 53.8 35.9
            | 26.4 44.0 27.8 | 29.3 46.9 30.8
            | 35.6 54.6 38.2 | 31.4 51.5 33.5
        super. IN-1M
            | 38.9 59.6 42.7 | 35.4 56.5 38.1
            | 40.6 61.3 44.4 | 36.8 58.1 39.5
            | 38.2 58.2 41.2 | 33.3 54.7 35.2
            | 40.0 59.9 43.1 | 34.7 56.5 36.9
        MoCo IN-1M
            | 38.5(-0.4) 58.9(-0.7) 42.0(-0.7) | 35.1(-0.3) 55.9(-0.6) 37.7(-0.4)
            | 40.8(+0.2) 61.6(+0.3) 44.7(+0.3) | 36.9(+0.1) 58.4(+0.3) 39.7(+0.2)
            | 38.5(+0.3) 58.3(+0.1) 41.6(+0.4) | 33.6(+0.3) 54.8(+0.1) 35.6(+0.4)
            | 40.7(+0.7) 60.5(+0.6) 44.1(+1.0) | 35.4(+0.7) 57.3(+0.8) 37.6(+0.7)
        MoCo IG-1B
            | 38.9(0.0)  59.4(-0.2) 42.3(-0.4) | 35.4(0.0)  56.5(0.0)  37.9(-0.2)
            | 41.1(+0.5) 61.8(+0.5) 45.1(+0.7) | 37.4(+0.6) 59.1(+1.0) 40.2(+0.7)
            | 39.1(+0.9) 58.7(+0.5) 42.2(+1.0) | 34.1(+0.8) 55.4(+0.7) 36.4(+1.2)
            | 41.1(+1.1) 60.7(+0.8) 44.8(+1.7) | 35.6(+0.9) 57.4(+0.9) 38.1(+1.2)
    """,
    # Keypoints, dense pose, LVIS, Cityscapes instances, semantic of Cityscapes and of VOC.
    "moco-v1/table6": """
        random init.
            | 65.9 86.5 71.7 | 39.4 78.5 35.1 | 22.5 34.8 23.8 | 25.4 51.1 | 65.3 | 39.5
        super. IN-1M
            | 65.8 86.9 71.9 | 48.3 85.6 50.6 | 24.4 37.8 25.8 | 32.9 59.6 | 74.6 | 74.4
        MoCo IN-1M
            | 66.8(+1.0) 87.4(+0.5) 72.5(+0.6) | 50.1(+1.8) 86.8(+1.2) 53.9(+3.3)
            | 24.1(-0.3) 37.4(-0.4) 25.5(-0.3) | 32.3(-0.6) 59.3(-0.3) | 75.3(+0.7) | 72.5(-1.9)
        MoCo IG-1B
            | 66.9(+1.1) 87.8(+0.9) 73.0(+1.1) | 50.6(+2.3) 87.0(+1.4) 54.3(+3.7)
            | 24.9(+0.5) 38.2(+0.4) 26.4(+0.6) | 32.9(0.0)  60.3(+0.7) | 75.5(+0.9) | 73.6(-0.8)
    """,
    "moco-v1/tableA1": """
        random init. | 41.4       61.9       45.1       | 37.6       59.1       40.3
        super. IN-1M | 41.9       62.5       45.6       | 38.0       59.6       40.8
        MoCo IN-1M   | 42.3(+0.4) 62.7(+0.2) 46.2(+0.6) | 38.3(+0.3) 60.1(+0.5) 41.2(+0.4)
        MoCo IG-1B   | 42.8(+0.9) 63.2(+0.7) 47.0(+1.4) | 38.7(+0.7) 60.5(+0.9) 41.3(+0.5)
    """,
    # The 1x schedule, then the 2x.
    "moco-v1/appendixA4": """
        super. IN-1M, frozen BN | frozen | 24.1 37.3 25.4 | 24.4 37.8 25.8
        super. IN-1M, tuned BN  | tuned  | 23.5 36.6 24.8 | 23.2 36.0 24.4
        MoCo IN-1M, tuned BN    | tuned  | 23.2 36.0 24.7 | 24.1 37.4 25.5
        MoCo IG-1B, tuned BN    | tuned  | 24.3 37.4 25.9 | 24.9 38.2 26.4
    """,
    "moco-v1/appendixA6": """
        random init. | 61.8
        super. IN-1M | 66.1
        MoCo IN-1M   | 65.6
        MoCo IG-1B   | 65.8
    """,
    "moco-v1/appendixA7": """
        random init. | 76.5
        MoCo IN-1M   | 77.0
        MoCo IG-1B   | 77.3
    """,
}


@pytest.mark.parametrize("name", TABLES)
def test_each_cell_is_as_moco_v1_printed_it(name):
    assert shown(name) == TABLES[name].replace("|", " ").split()

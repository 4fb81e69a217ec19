"""How good detections, masks, keypoints and label maps are: the numbers that papers report."""

from __future__ import annotations

from moco_eval.scoring.scores import Scores

__all__ = ["Scores"]

"""Linear probes trained step by step on augmented images: one head, or a grid of them at once.

Each head is trained twice side by side: on all training images, which is the head that counts, and
as a scout without the held-out slice. The scouts' top-1 on the slice chooses: of a grid, the head;
of a single head, the epoch. So the choice sees no test image, the head that is reported has seen
every training image, and nothing is trained again. (DINOv2, whose grid this is, chooses on the test
set unless told otherwise, and trains nothing again either.) BatchNorm without parameters, which
knows no label, takes its statistics from every image of a batch.

The encoder is frozen, so that test-time crops are turned into features once and not in each epoch.

Three numbers are kept apart: ``top1_last`` of the last epoch (of a grid: of the chosen head),
``top1_best_on_test``, the greatest on the test set, which the papers' code reports, and
``top1_selected`` of the epoch or the head that the scouts chose. ``top1`` is the last epoch's where
nothing need be chosen, as all numbers are fixed, and the selected one of a grid.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from moco_eval import accuracy, distributed, features, schedules
from moco_eval.data.selection import selection_slice, told
from moco_eval.data.splits import ImageData
from moco_eval.data.subsets import subset
from moco_eval.encoders.encoder import Encoder
from moco_eval.extraction import Extractor
from moco_eval.probes.bank import Bank, Judged, Scores, best
from moco_eval.probes.feed import AugmentedImages, Batches, batches_of_features
from moco_eval.probes.heads import Descent, Setting
from moco_eval.probes.recipes import Grid, Sgd
from moco_eval.probes.verdict import caution, require_learnt
from moco_eval.records import Outcome
from moco_eval.resources import Resources

# The batch that a recipe's learning rate is said for.
BASE_BATCH = 256

Item = TypeVar("Item")


def evaluate(
    encoder: Encoder, recipe: Sgd | Grid, data: ImageData, *, seed: int, resources: Resources
) -> Outcome:
    """Train the recipe's heads and return the numbers of the one that counts.

    Raises:
        DivergedError: If that one has learnt nothing.
    """
    order = Batches(len(data.train), recipe, seed=seed)
    settings = _settings(recipe, order.batch_total / BASE_BATCH)
    kept, held = selection_slice(data, share=recipe.holdout, seed=seed)
    judged = _judged(encoder, recipe, data, held if recipe.holdout else held[:0], resources)
    bank = Bank(
        settings,
        {kind: found.shape[1] for kind, found in judged.test.items()},
        len(data.classes),
        descent=Descent(
            optimizer=recipe.optimizer, sgd_momentum=recipe.sgd_momentum, nesterov=recipe.nesterov
        ),
        has_scouts=recipe.holdout > 0,
        seed=seed,
        device=encoder.device,
    )

    # One pass over the augmented images an epoch, for all heads.
    extractor = Extractor(encoder, recipe.precision, resources.compile)
    with features.frozen(encoder, extractor.network):
        feed = batches_of_features(
            extractor,
            AugmentedImages(data.train.images, encoder.input, recipe, seed=seed),
            order,
            kinds=tuple(judged.test),
            num_workers=resources.num_workers,
        )
        labels = torch.tensor(data.train.labels)
        curve, norm = _train(bank, recipe, _watched(feed, order), (labels, kept, judged), order)

    # Of a grid the scouts choose the head.
    number = 0 if isinstance(recipe, Sgd) else best(*_on_slice(curve[-1]))
    heads, place = bank.places[number]
    fit, setting = bank.fit(number), settings[number]
    require_learnt(fit, labels, feature_norm=norm, lr=setting.lr)
    note = caution(fit, labels)
    if note and distributed.rank() == 0:
        print(note, flush=True)
    logits = heads.logits(judged.test[heads.feature], place).cpu()
    return Outcome(
        metrics=accuracy.primary_first(accuracy.metrics(logits, judged.test_labels), data.metric)
        | _labelled(recipe, curve, number),
        num_test=len(logits),
        details={
            **asdict(setting),
            "lr_rule": f"lr x {order.batch_total} / {BASE_BATCH}",
            "batch_used": order.batch_total,
            "num_steps": len(order),
            "feature_norm": norm,
            "feature_dim": heads.weight.shape[2],
            "train_loss": fit.loss,
            "train_top1": fit.top1,
            **({"caution": note} if note else {}),
            "selection": _selection(recipe, bank, curve, told(data, recipe.holdout)),
        },
        drawn={"logits": logits, "labels": judged.test_labels}
        | ({"sensitivity": _rows(bank, curve[-1], number)} if isinstance(recipe, Grid) else {}),
    )


def _settings(recipe: Sgd | Grid, scale: float) -> list[Setting]:
    """A head each; those of one input follow each other."""
    axes: tuple[tuple[Any, ...], ...] = (
        ((recipe.feature,), (recipe.batch_norm,), (recipe.lr,), (recipe.weight_decay,))
        if isinstance(recipe, Sgd)
        else (recipe.features, recipe.batch_norms, recipe.lrs, recipe.weight_decays)
    )
    return [
        Setting(lr=scale * lr, weight_decay=decay, feature=feature, batch_norm=batch_norm)
        for feature, batch_norm, lr, decay in itertools.product(*axes)
    ]


def _judged(
    encoder: Encoder, recipe: Sgd | Grid, data: ImageData, held: Tensor, resources: Resources
) -> Judged:
    """Features of the held-out slice and of the test set."""
    # Where nothing is held out, one image stands in for the slice and is not looked at.
    part = replace(data, train=subset(data.train, held.tolist() or [0]), held_out=None)
    kinds = (recipe.feature,) if isinstance(recipe, Sgd) else dict.fromkeys(recipe.features)
    found = {
        kind: features.of_data(
            encoder, part, feature=kind, precision=recipe.precision, resources=resources
        )
        for kind in kinds
    }
    some = next(iter(found.values()))
    return Judged(
        slice={kind: each.train[: len(held)] for kind, each in found.items()},
        slice_labels=some.train_labels[: len(held)],
        test={kind: each.test for kind, each in found.items()},
        test_labels=some.test_labels,
    )


def _train(
    bank: Bank,
    recipe: Sgd | Grid,
    feed: Iterator[tuple[Tensor, dict[str, Tensor]]],
    known: tuple[Tensor, Tensor, Judged],
    order: Batches,
) -> tuple[list[Scores], float]:
    """Train to the end.

    Args:
        bank: The heads.
        recipe: Its schedule.
        feed: Images and features of each batch.
        known: The training labels, which images are not held out, and what is judged on.
        order: How long an epoch is.

    Returns:
        The scores after each epoch, of a grid after the last alone; and the features' mean norm
        in the first epoch.
    """
    labels, kept, judged = known
    is_kept = torch.zeros(len(labels), dtype=torch.bool)
    is_kept[kept] = True
    norms, curve = [], []
    for step, (samples, batch) in enumerate(feed):
        epoch, place = divmod(step, order.per_epoch)
        some = next(iter(batch.values()))
        if place == 0:
            bank.begin_epoch()
        if epoch == 0:
            norms.append(some.norm(dim=1).mean())
        bank.step(
            batch,
            labels[samples].to(some.device),
            is_kept[samples].to(some.device),
            _lr_factor(recipe, step, order.per_epoch),
        )
        if place + 1 < order.per_epoch:
            continue
        if epoch == 0:
            _tell(bank, order.batch_total, torch.stack(norms).mean().item())
        if isinstance(recipe, Sgd) or epoch + 1 == recipe.epochs:
            curve.append(bank.judge(judged))
    return curve, torch.stack(norms).mean().item()


def _lr_factor(recipe: Sgd | Grid, step: int, per_epoch: int) -> float:
    """What the schedule makes of the learning rate in a step, from 0."""
    if recipe.schedule == "drops":
        return schedules.step_drops(step // per_epoch, recipe.lr_drops)
    if recipe.schedule == "cosine":
        return schedules.cosine(step // per_epoch, recipe.epochs)
    return schedules.warm_up_then_cosine(step / per_epoch, recipe.warmup_epochs, recipe.epochs)


def _labelled(recipe: Sgd | Grid, curve: list[Scores], number: int) -> dict[str, float]:
    """The last, the best on the test set and the selected top-1, under these names."""
    last = curve[-1].test_top1
    if isinstance(recipe, Grid):
        chosen = last[number].item()
        return {
            "top1_last": chosen,
            "top1_best_on_test": last.nan_to_num(0).max().item(),
            "top1_selected": chosen,
        }
    by_epoch = torch.cat([scores.test_top1 for scores in curve])
    named = {
        "top1_last": last.item(),
        "top1_best_on_test": by_epoch.nan_to_num(0).max().item(),
    }
    if recipe.holdout:
        named["top1_selected"] = by_epoch[_best_epoch(curve)].item()
    return named


def _selection(recipe: Sgd | Grid, bank: Bank, curve: list[Scores], where: str) -> dict[str, Any]:
    """What was chosen, on what, by what: for a record."""
    if isinstance(recipe, Grid):
        return {
            "what": "head",
            "chosen": asdict(bank.settings[best(*_on_slice(curve[-1]))]),
            "on": where,
            "by": "top1 of scouts that did not see it; the head itself saw all training images",
            "num_heads": len(bank.settings),
            "by_head": bank.rows(curve[-1]),
            "test_top1_by_head": curve[-1].test_top1.tolist(),
        }
    by_epoch = {"test_top1_by_epoch": [scores.test_top1.item() for scores in curve]}
    if not recipe.holdout:
        return {"what": "nothing: all numbers are the recipe's", **by_epoch}
    return {
        "what": "epoch, for top1_selected alone",
        "chosen": _best_epoch(curve) + 1,
        "on": where,
        "by": "top1 of a scout that did not see it; the head itself saw all training images",
        **by_epoch,
    }


def _rows(bank: Bank, scores: Scores, chosen: int) -> list[dict[str, Any]]:
    """For a picture: ties are many, and which head was chosen is marked."""
    return [row | {"chosen": n == chosen} for n, row in enumerate(bank.rows(scores))]


def _best_epoch(curve: list[Scores]) -> int:
    return best(
        [scores.slice_top1.item() for scores in curve],
        [scores.slice_loss.item() for scores in curve],
    )


def _on_slice(scores: Scores) -> tuple[list[float], list[float]]:
    return scores.slice_top1.tolist(), scores.slice_loss.tolist()


def _tell(bank: Bank, batch: int, norm: float) -> None:
    if distributed.rank() == 0:
        rates = [setting.lr for setting in bank.settings]
        heads = f" for {len(rates)} heads" if len(rates) > 1 else ""
        spread = f"{min(rates):.3g} to {max(rates):.3g}" if heads else f"{rates[0]:.3g}"
        print(
            f"Learning rate {spread}{heads}, batches of {batch}, mean feature norm {norm:.3g}.",
            flush=True,
        )


def _watched(feed: Iterator[Item], order: Batches) -> Iterator[Item]:
    off = True if distributed.rank() else None
    yield from tqdm(feed, total=len(order), desc="probe", leave=False, disable=off)

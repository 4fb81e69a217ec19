"""The methods side by side: how a recipe becomes a model, and how the model takes a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moco_eval import distributed, schedules
from moco_eval.data.sampler import draw_key, keyed_generator
from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.networks import classifier_name
from moco_eval.errors import CheckpointError
from pretrain import shuffle
from pretrain.batches import Batch
from pretrain.mechanisms import EndToEnd, MemoryBank
from pretrain.moco import MoCo, unit
from pretrain.mocov3 import MoCoV3
from pretrain.recipes import Recipe
from pretrain.supervised import Supervised

Method = MoCo | EndToEnd | MemoryBank | MoCoV3 | Supervised


@dataclass(frozen=True)
class Position:
    """A place in training: what learning rate, key momentum and every draw depend on."""

    recipe: Recipe
    seed: int
    step: int
    steps_per_epoch: int

    @property
    def epoch(self) -> int:
        return self.step // self.steps_per_epoch

    @property
    def lr(self) -> float:
        """The learning rate of this step."""
        recipe, epochs = self.recipe, self.step / self.steps_per_epoch
        if recipe.schedule == "cosine-by-step":
            return recipe.peak_lr * schedules.warm_up_then_cosine(
                epochs, recipe.warmup_epochs, recipe.epochs
            )
        factor = schedules.warm_up(self.step, recipe.warmup_epochs * self.steps_per_epoch)
        if recipe.schedule == "cosine":
            return recipe.peak_lr * factor * schedules.cosine(self.epoch, recipe.epochs)
        return recipe.peak_lr * factor * schedules.step_drops(self.epoch, recipe.lr_drops)

    @property
    def key_momentum(self) -> float:
        """How much of itself the key encoder keeps in this step."""
        recipe = self.recipe
        if recipe.key_momentum_schedule == "constant":
            return recipe.key_momentum
        return schedules.cosine_to_one(
            recipe.key_momentum, self.step / self.steps_per_epoch, recipe.epochs
        )

    def permutation(self) -> Tensor:
        """The shuffle of the whole batch ``(batch_total,)``."""
        size = self.recipe.batch_total
        return torch.randperm(size, generator=keyed_generator(self.seed, self.step, size))

    def negatives(self, num_images: int) -> Tensor:
        """The entries of the memory bank ``(K,)`` that this batch is held against."""
        generator = keyed_generator(self.seed, self.step, num_images)
        return torch.randint(num_images, (self.recipe.queue_size,), generator=generator)


def build(recipe: Recipe, *, num_images: int, num_classes: int, seed: int) -> Method:
    """The model before the first step: recipe and seed alone decide it, whatever ran before.

    Raises:
        UsageError: If the recipe's ranks cannot be shared out among the processes, or nobody knows
            its architecture.
    """
    virtual_ranks = recipe.virtual_ranks(distributed.world_size())
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(draw_key(seed))
        return _build(recipe, num_images, num_classes, virtual_ranks)


def _build(recipe: Recipe, num_images: int, num_classes: int, virtual_ranks: int) -> Method:
    arch = recipe.arch
    settings: dict[str, Any] = {"in_chans": recipe.in_chans, "image_size": recipe.image_size}
    if recipe.method == "supervised":
        return Supervised(arch, num_classes, **settings)
    if recipe.method == "mocov3":
        return MoCoV3(
            arch,
            recipe.dim,
            recipe.mlp_dim,
            recipe.temperature,
            num_projector_layers=recipe.num_projector_layers,
            **settings,
        )
    contrast = (recipe.dim, recipe.temperature, recipe.mlp)
    settings["virtual_ranks"] = virtual_ranks
    if recipe.mechanism == "end-to-end":
        return EndToEnd(arch, *contrast, **settings)
    if recipe.mechanism == "memory-bank":
        return MemoryBank(arch, *contrast, num_images=num_images, **settings)
    return MoCo(
        arch,
        recipe.dim,
        recipe.queue_size,
        recipe.key_momentum,
        recipe.temperature,
        recipe.mlp,
        **settings,
    )


def encoder_of(model: Method) -> nn.Module:
    """What is evaluated when training is over: the encoder that gradients train, as upstream."""
    if isinstance(model, Supervised):
        return model.encoder
    return model.base_encoder if isinstance(model, MoCoV3) else model.encoder_q


def encoders_of(model: Method) -> list[nn.Module]:
    """Every encoder of the method: those that gradients train and those that follow."""
    names = ("encoder", "encoder_q", "encoder_k", "base_encoder", "momentum_encoder")
    return [module for name, module in model.named_children() if name in names]


def begin_with(model: Method, encoder: Encoder) -> None:
    """Replace all encoders' fresh weights by those of ``encoder``; projectors stay fresh.

    Raises:
        CheckpointError: If it is not the same architecture, tensor for tensor.
    """
    for own in encoders_of(model):
        projector = f"{classifier_name(own)}."
        tensors = own.state_dict()
        given = encoder.tensors()
        wanted = {name: t.shape for name, t in tensors.items() if not name.startswith(projector)}
        offered = {name: tensor.shape for name, tensor in given.items()}
        differing = sorted(n for n in wanted | offered if wanted.get(n) != offered.get(n))
        if differing:
            raise CheckpointError(
                f"{encoder.manifest.source} cannot be begun with: {len(differing)} tensors differ "
                f"in name or shape from the recipe's architecture, first {differing[0]}."
            )
        own.load_state_dict(tensors | given)


@torch.no_grad()
def embed(model: Method, images: Tensor) -> Tensor:
    """Unit embeddings ``(N, dim)`` of this process's images, without any lasting effect."""
    encoder = encoder_of(model)
    groups = getattr(model, "virtual_ranks", 1)
    with shuffle.still_statistics(encoder):
        return unit(shuffle.by_group(encoder, images, groups))


def forward(
    model: Method, batch: Batch, labels: Tensor | None, position: Position
) -> tuple[Tensor, Tensor]:
    """Logits and targets of one batch.

    Args:
        model: The method.
        batch: This process's part.
        labels: Of all images of the data set; the supervised baseline alone looks at them.
        position: Decides the draws and the key momentum.
    """
    views, device = batch.views, batch.views[0].device
    logits: Tensor
    if isinstance(model, Supervised):
        assert labels is not None, "the supervised baseline was given no labels"
        logits, targets = model(views[0], labels[batch.samples.to(labels.device)])
    elif isinstance(model, MoCoV3):
        logits, targets = model(*views, position.key_momentum)
    elif isinstance(model, MemoryBank):
        negatives = position.negatives(len(model.bank)).to(device)
        logits, targets = model(views[0], batch.samples.to(device), negatives)
    else:
        logits, targets = model(*views, permutation=position.permutation().to(device))
    return logits, targets


def loss_and_top1(model: Method, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and the share of rows whose largest logit is the target's, in percent."""
    scale = model.loss_scale if isinstance(model, MoCoV3) else 1.0
    hits = logits.detach().argmax(1) == targets
    return scale * F.cross_entropy(logits.float(), targets), 100 * hits.float().mean()

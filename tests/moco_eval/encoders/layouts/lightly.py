"""Files of lightly and LightlyTrain."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import torch
from torch import nn

from layouts.layout import WORTHLESS, Layout, Written, randomised, saved, under, without, worthless
from layouts.resnets import resnet
from moco_eval.data.images import InputSpec
from moco_eval.encoders.networks import build_network

BENCHMARKS = "lightly's modules, after lightly-ai/lightly@e8d317fc: benchmarks/imagenet"
EXAMPLES = "lightly's modules, after lightly-ai/lightly@e8d317fc: examples/pytorch_lightning"
TRAIN = "lightly-ai/lightly-train@8f5a75c4: src/lightly_train/_checkpoint.py"
EXPORT = "lightly-ai/lightly-train@8f5a75c4: src/lightly_train/_commands/export.py"
CIFAR = InputSpec(size=32, crop_pct=1.0)


def checkpoint_of(parts, path):
    """What Lightning writes for a module with these attributes."""
    import pytorch_lightning

    class Method(pytorch_lightning.LightningModule):
        def __init__(self):
            super().__init__()
            for name, part in parts.items():
                setattr(self, name, part)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1.0)

    trainer = pytorch_lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.strategy.connect(Method())
    trainer.save_checkpoint(path)
    return path


def spoiled(module):
    """A copy with numbers that would show."""
    copied = copy.deepcopy(module)
    copied.load_state_dict(worthless(copied.state_dict()))
    return copied


def torchvision_resnet():
    """The ResNet-18 that ``resnet`` has, as torchvision's users build it, less its classifier."""
    import torchvision

    network = torchvision.models.resnet18()
    network.fc = nn.Identity()
    network.load_state_dict(resnet()[1])
    return network.eval()


def _resnet(path, *, tower, hints=None, author=None):
    return Written(
        path=path,
        expected=resnet()[1],
        arch="resnet18",
        input=InputSpec(),
        tower=tower,
        hints=hints or {},
        author=author,
    )


def _as_children():
    return nn.Sequential(*list(torchvision_resnet().children())[:-1])


def _moco_example(folder: Path) -> Written:
    from lightly.loss import NTXentLoss
    from lightly.models.modules import MoCoProjectionHead

    backbone = _as_children()
    head = spoiled(MoCoProjectionHead(512, 64, 8))
    parts = {
        "backbone": backbone,
        "projection_head": head,
        "backbone_momentum": spoiled(backbone),
        "projection_head_momentum": spoiled(head),
        "criterion": NTXentLoss(memory_bank_size=(16, 8)),
    }
    path = checkpoint_of(parts, folder / "moco.ckpt")
    return _resnet(path, tower="backbone", author=lambda images: backbone(images).flatten(1))


def _dino_head(dim):
    from lightly.models.modules import DINOProjectionHead

    with warnings.catch_warnings():
        # lightly calls what torch has another name for.
        warnings.simplefilter("ignore", FutureWarning)
        head = DINOProjectionHead(dim, 16, 8, 4)
    head.load_state_dict(worthless(head.state_dict()))
    return head


def _dino_example(folder: Path) -> Written:
    from lightly.loss import DINOLoss

    backbone, head = _as_children(), _dino_head(512)
    parts = {
        "student_backbone": spoiled(backbone),
        "student_head": head,
        "teacher_backbone": backbone,
        "teacher_head": head,
        "criterion": DINOLoss(output_dim=4),
    }
    path = checkpoint_of(parts, folder / "dino.ckpt")
    return _resnet(path, tower="teacher_backbone", hints={"tower": "teacher_backbone"})


def _byol_benchmark(folder: Path) -> Written:
    from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
    from lightly.utils.benchmarking import OnlineLinearClassifier

    backbone = torchvision_resnet()
    parts = {
        "backbone": backbone,
        "projection_head": spoiled(BYOLProjectionHead(512, 16, 8)),
        "prediction_head": spoiled(BYOLPredictionHead(8, 16, 8)),
        "teacher_backbone": spoiled(backbone),
        "teacher_projection_head": spoiled(BYOLProjectionHead(512, 16, 8)),
        "online_classifier": spoiled(OnlineLinearClassifier(512, 3)),
    }
    path = checkpoint_of(parts, folder / "byol.ckpt")
    return _resnet(path, tower="backbone", author=backbone)


def _vit_benchmark(folder: Path) -> Written:
    import timm
    from lightly.models.modules import MaskedVisionTransformerTIMM
    from lightly.utils.benchmarking import OnlineLinearClassifier

    vit = timm.create_model(
        "vit_small_patch16_224", depth=2, init_values=1e-5, dynamic_img_size=True, num_classes=3
    )
    backbone = randomised(MaskedVisionTransformerTIMM(vit=vit, pos_embed_initialization="skip"))
    parts = {
        "teacher_backbone": backbone,
        "student_backbone": spoiled(backbone),
        "teacher_dino_head": _dino_head(384),
        "student_dino_head": _dino_head(384),
        "online_classifier": spoiled(OnlineLinearClassifier(384, 3)),
    }
    return Written(
        path=checkpoint_of(parts, folder / "dinov2.ckpt"),
        expected=without(vit.state_dict(), "head."),
        arch="timm:vit_small_patch14_dinov2:depth=2,img_size=224,patch_size=16",
        input=InputSpec(),
        tower="teacher_backbone",
        author=lambda images: backbone.encode(images)[:, 0],
    )


def _small_resnet(num_splits=0):
    from lightly.models import ResNetGenerator

    network = ResNetGenerator("resnet-18", num_splits=num_splits)
    return randomised(network)


def _named(network):
    state = {
        name.replace("shortcut", "downsample"): tensor
        for name, tensor in network.state_dict().items()
    }
    return without(state, "linear.")


def _pooled_author(network):
    body = nn.Sequential(*list(network.children())[:2], nn.ReLU(), *list(network.children())[2:-1])
    return lambda images: body(images).mean((2, 3))


def _split_resnet(folder: Path) -> Written:
    network = _small_resnet(num_splits=2)
    with torch.no_grad():
        # As after training: each half of a batch has seen other images.
        for name, buffer in network.named_buffers():
            if "running_" in name:
                buffer.add_(torch.tensor([0.25, -0.25]).repeat_interleave(len(buffer) // 2))
    parts = {"backbone": nn.Sequential(*list(network.children())[:-1])}
    path = checkpoint_of(parts, folder / "moco.ckpt")
    # This joins the halves.
    network.train()
    network.eval()
    halves = {
        name: tensor[: len(tensor) // 2] if "running_" in name else tensor
        for name, tensor in _named(network).items()
    }
    return Written(
        path=path,
        expected=halves,
        arch="resnet18_cifar",
        input=CIFAR,
        tower="backbone",
        author=_pooled_author(network),
    )


def _bare_small_resnet(folder: Path) -> Written:
    network = _small_resnet()
    expected = _named(network)
    network.linear = spoiled(network.linear)
    return Written(
        path=saved(folder / "resnet.pth", network.state_dict()),
        expected=expected,
        arch="resnet18_cifar",
        input=InputSpec(size=32),
        hints={"input": "imagenet,size=32"},
        author=_pooled_author(network),
    )


class _Wrapper(nn.Module):
    """LightlyTrain keeps a torchvision ResNet whole, and its stages once more."""

    def __init__(self, network):
        from torchvision.models._utils import IntermediateLayerGetter

        super().__init__()
        self._features = IntermediateLayerGetter(network, {"layer1": "0", "layer4": "3"})
        self._pool = network.avgpool


def _train(folder: Path) -> Written:
    network = torchvision_resnet()
    wrapper = _Wrapper(network)
    inside = under("wrapped_model.", wrapper.state_dict())
    head = {"embed_head.weight": torch.full((8, 512, 1, 1), WORTHLESS)}
    state = {
        **under("teacher_embedding_model.", inside | head),
        **under("student_embedding_model.", worthless(inside | head)),
        "teacher_projection_head.last_layer.weight": torch.full((4, 8), WORTHLESS),
        "student_projection_head.last_layer.weight": torch.full((4, 8), WORTHLESS),
        "criterion.center.center": torch.full((1, 4), WORTHLESS),
    }
    about = {
        "version": "0.11.0",
        "date": "2026-01-01T00:00:00+00:00",
        "models": {"model": network, "wrapped_model": wrapper},
        "normalize_args": {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)},
        "license_info": "AGPL-3.0",
    }
    content = {"state_dict": state, "lightly_train": about, "epoch": 1, "global_step": 2}
    return Written(
        path=saved(folder / "last.ckpt", content),
        expected=resnet()[1],
        arch="resnet18",
        input=InputSpec(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)),
        tower="teacher_embedding_model",
    )


def _train_vit(folder: Path) -> Written:
    """timm's networks are kept whole, with their classifier."""
    network = randomised(build_network("timm:vit_small_patch16_224:depth=1", num_classes=3))
    state = network.state_dict()
    state |= worthless({name: state[name] for name in ("head.weight", "head.bias")})
    content = {
        "state_dict": under("embedding_model.wrapped_model._model.", state),
        "lightly_train": {"normalize_args": {"mean": [0.5] * 3, "std": [0.25] * 3}},
    }
    return Written(
        path=saved(folder / "last.ckpt", content),
        expected=without(state, "head."),
        arch="timm:vit_small_patch16_224:depth=1",
        input=InputSpec(mean=(0.5,) * 3, std=(0.25,) * 3),
        tower="embedding_model",
    )


def _distilled(folder: Path) -> Written:
    state = resnet()[1]
    student = under("student_embedding_model.model_wrapper._features.", state)
    content = {
        "state_dict": {
            **under("teacher_embedding_model.wrapped_model._features.", worthless(state)),
            **student,
            "student_projection_head.weight": torch.full((4, 512), WORTHLESS),
            "teacher_queue": torch.full((4, 4), WORTHLESS),
        },
        "lightly_train": {"normalize_args": {"mean": (0.5,) * 3, "std": (0.25,) * 3}},
    }
    return Written(
        path=saved(folder / "last.ckpt", content),
        expected=state,
        arch="resnet18",
        input=InputSpec(mean=(0.5,) * 3, std=(0.25,) * 3),
        tower="student_embedding_model",
    )


def _exported(folder: Path) -> Written:
    inside = under("wrapped_model._features.", resnet()[1])
    head = {"embed_head.weight": torch.full((8, 512, 1, 1), WORTHLESS)}
    return _resnet(saved(folder / "exported_last.pt", inside | head), tower="encoder")


_LIBRARIES = ("lightly", "pytorch_lightning")
LAYOUTS = (
    *(
        Layout(format=row, case=case, evidence="library", by=by, requires=_LIBRARIES, write=write)
        for row, case, by, write in (
            ("lightly-example", "MoCo", EXAMPLES, _moco_example),
            ("lightly-example", "DINO's teacher", EXAMPLES, _dino_example),
            ("lightly-benchmark", "BYOL, ResNet", BENCHMARKS, _byol_benchmark),
            ("lightly-benchmark", "DINOv2, ViT", BENCHMARKS, _vit_benchmark),
            ("lightly-resnet", "split BatchNorm", "lightly", _split_resnet),
            ("shortcut-resnet", "ResNetGenerator", "lightly", _bare_small_resnet),
        )
    ),
    *(
        Layout(format=row, case=case, evidence="synthetic", by=by, write=write)
        for row, case, by, write in (
            ("lightly-train", "DINO, with whole modules", TRAIN, _train),
            ("lightly-train", "timm's ViT", TRAIN, _train_vit),
            ("lightly-train-distillation", "student", TRAIN, _distilled),
            ("lightly-train-export", "embedding model", EXPORT, _exported),
        )
    ),
)

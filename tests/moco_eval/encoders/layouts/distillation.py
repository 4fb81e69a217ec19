"""Files of DINO, iBOT, DINOv2 and DINOv3."""

from __future__ import annotations

import warnings
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch

from layouts.layout import WORTHLESS, Layout, Written, saved, under, worthless
from layouts.resnets import resnet
from layouts.vits import TINY, transformer, wrong
from moco_eval.data.images import InputSpec

DINO = "facebookresearch/dino@7c446df: main_dino.py, utils.py"
IBOT = "bytedance/ibot@da316d8: main_ibot.py"
DINOV2 = "facebookresearch/dinov2@b8931f7: models/vision_transformer.py"
DINOV3 = "facebookresearch/dinov3@6876159: models/vision_transformer.py, layers/attention.py"
HEAD = ("head.mlp.0.weight", "head.last_layer.weight_g", "head.last_layer.weight_v")
SWIN = "timm:swin_tiny_patch4_window7_224:depths=[2,1],embed_dim=32,img_size=56,num_heads=[1,2]"


def fed(size, **others):
    return InputSpec(size=size, interpolation="bicubic", **others)


def _written(path, state, arch=TINY, size=32, **others):
    return Written(
        path=path,
        expected=state,
        arch=arch,
        input=InputSpec(size=size, interpolation="bicubic"),
        **others,
    )


def _training(state, extra=(), **others):
    """DINO's and iBOT's files: a schedule leaves numbers of numpy's with the optimizer."""
    student = under("module.backbone.", worthless(state)) | under("module.", wrong(*HEAD))
    return {
        "student": student | wrong(*(f"module.backbone.{name}" for name in extra)),
        "teacher": under("backbone.", state) | wrong(*HEAD),
        "optimizer": {"param_groups": [{"lr": np.float64(0.5)}]},
        "epoch": 100,
        "args": Namespace(arch="vit_small", patch_size=16),
        **others,
    }


def _dino(folder: Path) -> Written:
    network, state = transformer()
    content = _training(state, dino_loss=wrong("center"))
    return _written(saved(folder / "c.pth", content), state, tower="teacher", author=network)


def _dino_resnet(folder: Path) -> Written:
    network, state = resnet()
    content = _training(state, dino_loss=wrong("center"))
    # With BatchNorm in it, the teacher is distributed too.
    content["teacher"] = under("module.", content["teacher"])
    path = saved(folder / "checkpoint.pth", content)
    return _written(path, state, "resnet18", 224, tower="teacher", author=network)


def _dino_student(folder: Path) -> Written:
    _, state = transformer()
    content = _training(worthless(state), dino_loss=wrong("center"))
    content["student"] = under("module.backbone.", state) | under("module.", wrong(*HEAD))
    path = saved(folder / "checkpoint.pth", content)
    return _written(path, state, tower="student", hints={"tower": "student"})


def _dino_backbone(folder: Path) -> Written:
    network, state = transformer()
    path = saved(folder / "dino_deitsmall16_pretrain.pth", state)
    return _written(path, state, hints={"format": "dino-backbone"}, author=network)


def _ibot(folder: Path) -> Written:
    network, state = transformer()
    content = _training(
        state, ("masked_embed",), ibot_loss=wrong("center", "center2"), fp16_scaler={}
    )
    content["teacher"] |= wrong("head.last_layer2.weight_v")
    return _written(saved(folder / "c.pth", content), state, tower="teacher", author=network)


def _microsoft(state):
    """Swin as its authors and iBOT name it: a stage ends with what timm begins the next with."""
    names = {name: name.replace("layers.1.downsample", "layers.0.downsample") for name in state}
    buffers = wrong("layers.0.blocks.0.attn.relative_position_index", "layers.0.blocks.1.attn_mask")
    return {names[name]: tensor for name, tensor in state.items()} | buffers


def _ibot_swin(folder: Path) -> Written:
    network, state = transformer(SWIN)
    content = _training(_microsoft(state), ("masked_embed",), ibot_loss=wrong("center"))
    path = saved(folder / "checkpoint.pth", content)
    return _written(path, state, SWIN, 56, tower="teacher", author=network)


def _ibot_backbone(folder: Path) -> Written:
    network, state = transformer()
    content = {"state_dict": state | wrong("masked_embed")}
    path = saved(folder / "checkpoint_teacher.pth", content)
    return _written(path, state, hints={"format": "ibot-backbone"}, author=network)


def _dinov2_arch(name, *, registers=0):
    registered = "_reg4" if registers else ""
    options = "depth=2,embed_dim=64,img_size=28,mlp_ratio=2.75,num_heads=1"
    return f"timm:vit_{name}_patch14{registered}_dinov2:{options}"


V2 = "timm:vit_small_patch14_dinov2:depth=2,embed_dim=64,img_size=28,num_heads=1"
V2_REGISTERS = "timm:vit_small_patch14_reg4_dinov2:depth=2,embed_dim=64,img_size=28,num_heads=1"
V2_GIANT = (
    "timm:vit_giant_patch14_dinov2:depth=2,embed_dim=64,img_size=28,mlp_ratio=5.5,num_heads=1"
)


def _dinov2(folder: Path) -> Written:
    network, state = transformer(V2)
    path = saved(folder / "dinov2_vits14_pretrain.pth", state | wrong("mask_token"))
    return _written(path, state, V2, 28, author=network)


def _dinov2_registers(folder: Path) -> Written:
    _, state = transformer(V2_REGISTERS)
    # The class token's position is a row of its own, 0.5 in each channel.
    position = torch.full((1, 1, 64), 0.5)
    theirs = state | wrong("mask_token")
    theirs["register_tokens"] = theirs.pop("reg_token")
    theirs["pos_embed"] = torch.cat([position, state["pos_embed"]], dim=1)
    path = saved(folder / "dinov2_vits14_reg4_pretrain.pth", theirs)
    expected = state | {"cls_token": state["cls_token"] + 0.5}
    return _written(path, expected, V2_REGISTERS, 28)


def _dinov2_giant(folder: Path) -> Written:
    network, state = transformer(V2_GIANT)
    names = {n: n.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3") for n in state}
    theirs = {names[name]: tensor for name, tensor in state.items()} | wrong("mask_token")
    path = saved(folder / "dinov2_vitg14_pretrain.pth", theirs)
    return _written(path, state, V2_GIANT, 28, author=network)


def _dinov2_teacher(folder: Path) -> Written:
    network, state = transformer(V2)
    # Two chunks of one block each, which are numbered across them.
    chunked = {
        name.replace("blocks.0.", "blocks.0.0.").replace("blocks.1.", "blocks.1.1."): tensor
        for name, tensor in state.items()
    }
    heads = wrong("dino_head.last_layer.weight_v", "ibot_head.mlp.0.weight", "backbone.mask_token")
    content = {"teacher": under("backbone.", chunked) | heads}
    path = saved(folder / "teacher_checkpoint.pth", content)
    return _written(path, state, V2, 28, tower="teacher", author=network)


V3 = "timm:vit_tiny_patch16_dinov3_qkvb:depth=2,embed_dim=64,global_pool=token,num_heads=1"
V3_PLUS = V3.replace("vit_tiny", "vit_small_plus")


def dinov3_state(arch):
    """The network, its tensors, and those as the authors' file has them."""
    network, state = transformer(arch)
    theirs = {}
    for name, tensor in state.items():
        renamed = name.replace("reg_token", "storage_tokens")
        for ours, other in (
            (".gamma_1", ".ls1.gamma"),
            (".gamma_2", ".ls2.gamma"),
            ("fc1_g", "w1"),
            ("fc1_x", "w2"),
        ):
            renamed = renamed.replace(ours, other)
        theirs[renamed.replace("fc2", "w3") if "plus" in arch else renamed] = tensor
    for name in [name for name in theirs if name.endswith("q_bias")]:
        block = name.removesuffix("q_bias")
        queries, values = theirs.pop(name), theirs.pop(f"{block}v_bias")
        # What the keys' third holds is masked.
        keys = torch.full_like(queries, WORTHLESS)
        theirs[f"{block}qkv.bias"] = torch.cat([queries, keys, values])
        kept = torch.tensor([1.0, 0.0, 1.0])
        theirs[f"{block}qkv.bias_mask"] = kept.repeat_interleave(len(queries))
    # A head of 64 channels: 100 to the power of 0/16, 1/16, ... 15/16.
    theirs["rope_embed.periods"] = (100 ** (torch.arange(16) / 16)).bfloat16()
    return network, state, theirs | wrong("mask_token", "local_cls_norm.weight")


def _dinov3(folder: Path) -> Written:
    network, state, theirs = dinov3_state(V3)
    path = saved(folder / "dinov3_vits16_pretrain.pth", theirs)
    return _written(path, state, V3, 256, tower="teacher", author=network)


def _dinov3_plus(folder: Path) -> Written:
    network, state, theirs = dinov3_state(V3_PLUS)
    content = {"teacher": under("backbone.", theirs) | wrong("dino_head.last_layer.weight")}
    path = saved(folder / "teacher_checkpoint.pth", content)
    return _written(path, state, V3_PLUS, 256, tower="teacher", author=network)


def _dinov3_distributed(folder: Path) -> Written:
    import torch.distributed.checkpoint as dcp

    network, state, theirs = dinov3_state(V3)
    heads = wrong("dino_head.last_layer.weight", "ibot_head.mlp.0.weight")
    path = folder / "sharded_teacher_checkpoint"
    with warnings.catch_warnings():
        # It is one process that saves.
        warnings.simplefilter("ignore", UserWarning)
        dcp.save({"model": under("backbone.", theirs) | heads, "iteration": 12}, checkpoint_id=path)
    return _written(path, state, V3, 256, tower="teacher", author=network)


CONVNEXT = "timm:convnext_atto:conv_mlp=false,depths=[1,1,1,1],dims=[8,16,24,32]"


def facebook_convnext(state):
    """ConvNeXt as its authors name it."""
    theirs = {}
    for name, tensor in state.items():
        renamed = name.replace("head.norm.", "norm.")
        for ours, other in (
            ("stem.", "downsample_layers.0."),
            (".blocks.", "."),
            ("conv_dw", "dwconv"),
            ("mlp.fc1", "pwconv1"),
            ("mlp.fc2", "pwconv2"),
        ):
            renamed = renamed.replace(ours, other)
        for stage in (1, 2, 3):
            renamed = renamed.replace(f"stages.{stage}.downsample", f"downsample_layers.{stage}")
        theirs[renamed] = tensor
    return theirs


def _dinov3_convnext(folder: Path) -> Written:
    network, state = transformer(CONVNEXT)
    theirs = facebook_convnext(state)
    twice = {
        name.replace("norm.", "norms.3.", 1): t for name, t in theirs.items() if name[:5] == "norm."
    }
    path = saved(folder / "dinov3_convnext_tiny_pretrain.pth", theirs | twice)
    return _written(path, state, CONVNEXT, 224, tower="teacher", author=network)


LAYOUTS = tuple(
    Layout(format=format, case=case, evidence="synthetic", by=by, write=write)
    for format, case, by, write in (
        ("dino", "ViT, teacher and student", DINO, _dino),
        ("dino", "ResNet, whose teacher is distributed", DINO, _dino_resnet),
        ("dino", "the student, on request", DINO, _dino_student),
        ("dino-backbone", "bare ViT", "facebookresearch/dino@7c446df: hubconf.py", _dino_backbone),
        ("ibot", "ViT", f"{IBOT}, models/vision_transformer.py", _ibot),
        ("ibot", "Swin", f"{IBOT}, models/swin_transformer.py", _ibot_swin),
        (
            "ibot-backbone",
            "extracted",
            "bytedance/ibot@da316d8: extract_backbone_weights.py",
            _ibot_backbone,
        ),
        ("dinov2", "ViT", DINOV2, _dinov2),
        ("dinov2", "with registers", DINOV2, _dinov2_registers),
        ("dinov2", "giant, with SwiGLU", DINOV2, _dinov2_giant),
        (
            "dinov2-teacher",
            "in chunks",
            "facebookresearch/dinov2@b8931f7: train/train.py",
            _dinov2_teacher,
        ),
        ("dinov3", "ViT", DINOV3, _dinov3),
        ("dinov3", "with SwiGLU, under teacher", DINOV3, _dinov3_plus),
        (
            "dinov3",
            "distributed checkpoint",
            "facebookresearch/dinov3@6876159: checkpointer/checkpointer.py",
            _dinov3_distributed,
        ),
        (
            "dinov3-convnext",
            "ConvNeXt",
            "facebookresearch/dinov3@6876159: models/convnext.py",
            _dinov3_convnext,
        ),
    )
)

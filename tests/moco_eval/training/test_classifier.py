"""The network that is fine-tuned: a copy, a head, and layers of which each learns at its rate."""

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

from moco_eval.errors import UsageError
from moco_eval.training.classifier import Classifier, layers_of, parameter_groups, prepare


def test_a_classifier_is_a_copy_that_trains_with_a_head_near_zero(make_encoder):
    encoder, before = make_encoder(), torch.random.get_rng_state()
    model = Classifier(encoder, 7, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(parameter.requires_grad for parameter in model.parameters())
    weight = model.head.weight.detach()
    assert weight.shape == (7, 128)
    # 896 draws: their s.d. is 0.01 within 3 * 0.01 / sqrt(2 * 896), which is 0.0007.
    assert weight.std().item() == pytest.approx(0.01, abs=7e-4)
    assert model.head.bias.tolist() == [0.0] * 7
    assert torch.equal(Classifier(encoder, 7, seed=0).head.weight, weight)
    assert not torch.equal(Classifier(encoder, 7, seed=1).head.weight, weight)
    with torch.no_grad():
        model.encoder.conv1.weight.fill_(-9)
    assert not (encoder.network.conv1.weight == -9).any()


def scales_of(model, layer_decay):
    groups = parameter_groups(model, weight_decay=0.3, layer_decay=layer_decay, decay_vectors=False)
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: (group["lr_scale"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }


def test_each_stage_of_a_resnet_learns_at_half_the_rate_of_the_next(make_encoder):
    model = Classifier(make_encoder(), 3, seed=0)
    scales = scales_of(model, 0.5)
    assert len(scales) == len(list(model.parameters()))
    # Classifier 1, stages 4 to 1 a half, a quarter, ..., the stem 1/32; vectors do not decay.
    assert scales["head.weight"] == (1, 0.3)
    assert scales["head.bias"] == (1, 0)
    assert scales["encoder.layer4.0.conv1.weight"] == (1 / 2, 0.3)
    assert scales["encoder.layer3.0.bn2.bias"] == (1 / 4, 0)
    assert scales["encoder.layer2.0.downsample.0.weight"] == (1 / 8, 0.3)
    assert scales["encoder.layer1.0.conv2.weight"] == (1 / 16, 0.3)
    assert scales["encoder.conv1.weight"] == (1 / 32, 0.3)


def test_the_layers_of_a_transformer_are_those_of_timm(make_encoder):
    model = Classifier(make_encoder("vit_digits"), 3, seed=0)
    whole = timm.models.VisionTransformer(
        img_size=32, patch_size=4, num_classes=3, embed_dim=96, depth=4, num_heads=3
    )
    spared = whole.no_weight_decay()
    groups = param_groups_layer_decay(whole, 0.3, spared, layer_decay=0.5)
    names = {parameter: name for name, parameter in whole.named_parameters()}
    expected = {
        names[parameter]: (group["lr_scale"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }
    found = {name.removeprefix("encoder."): told for name, told in scales_of(model, 0.5).items()}
    # Blocks 3 to 0 at 1/2 to 1/16, with the embedding at 1/32: by hand, two of them.
    assert found["blocks.3.mlp.fc1.weight"] == (1 / 2, 0.3)
    assert found["pos_embed"] == (1 / 32, 0)
    assert found == expected


def test_without_layer_decay_all_learn_at_one_rate_and_all_may_decay(make_encoder):
    model = Classifier(make_encoder(), 3, seed=0)
    (group,) = parameter_groups(model, weight_decay=0.3, layer_decay=1.0, decay_vectors=True)
    assert (group["lr_scale"], group["weight_decay"]) == (1, 0.3)
    assert len(group["params"]) == len(list(model.parameters()))


def test_a_network_whose_layers_nobody_knows_is_refused():
    with pytest.raises(UsageError, match=r"layers of a Sequential.*--set layer_decay=1"):
        layers_of(torch.nn.Sequential(torch.nn.Linear(2, 2)))


def test_branches_are_left_out_more_often_towards_the_end(make_encoder):
    model = Classifier(make_encoder("vit_digits"), 3, seed=0)
    prepare(model, drop_path=0.3)
    rates = [
        (block.drop_path1.drop_prob, block.drop_path2.drop_prob) for block in model.encoder.blocks
    ]
    # Four blocks: 0, 0.1, 0.2, 0.3.
    assert rates == [pytest.approx((rate, rate)) for rate in (0, 0.1, 0.2, 0.3)]
    assert model.training
    images = torch.randn(8, 3, 32, 32)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_a_network_without_such_branches_is_refused(make_encoder):
    with pytest.raises(UsageError, match=r"ScaledResNet has no residual branches.*drop_path=0"):
        prepare(Classifier(make_encoder(), 3, seed=0), drop_path=0.1)


def test_batch_norm_takes_over_what_it_is_told(make_encoder):
    model = Classifier(make_encoder(), 3, seed=0)
    prepare(model)
    assert model.encoder.bn1.momentum == 0.1
    prepare(model, batch_norm_momentum=0.025)
    assert model.encoder.bn1.momentum == model.encoder.layer4[0].bn2.momentum == 0.025

import numpy as np
import pytest
import torch
from PIL import Image

from moco_eval.data import digits
from moco_eval.data.catalog import open_images
from moco_eval.data.images import InputSpec, denormalize, normalize, open_image, to_input
from moco_eval.data.sampler import EpochBatches, draw_key, epoch_order
from moco_eval.errors import DataError, UsageError


def write_image(path, value=128, size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), value, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        for label, name in enumerate(("ant", "bee")):
            for number in range(count):
                write_image(tmp_path / split / name / f"{number}.png", 100 * label)
    return tmp_path


def test_the_digits_have_their_fixed_split():
    data = open_images("digits")
    assert (len(data.train), len(data.test), len(data.classes)) == (1437, 360, 10)
    train, test = digits.digit_split()
    assert sorted([*train, *test]) == list(range(1797))
    # The first test digit, from its own source: ink of 16 is white.
    inks, labels = digits.load()
    assert np.asarray(data.test.images[0]).max() == round(inks[test[0]].max() * 255 / 16)
    assert data.test.labels[0] == labels[test[0]]


def test_a_folder_of_classes_opens_in_order(folder):
    data = open_images(f"imagefolder:{folder}")
    assert data.classes == ("ant", "bee")
    assert (len(data.train), len(data.test)) == (6, 4)
    assert list(data.test.labels) == [0, 0, 1, 1]
    assert np.asarray(data.test.images[3]).flat[0] == 100


def test_the_fingerprint_sees_a_changed_file(folder):
    before = open_images(f"imagefolder:{folder}").fingerprint
    assert open_images(f"imagefolder:{folder}").fingerprint == before
    write_image(folder / "train/ant/9.png")
    assert open_images(f"imagefolder:{folder}").fingerprint != before


def test_a_missing_folder_shows_the_expected_tree(tmp_path):
    with pytest.raises(DataError) as caught:
        open_images(f"imagefolder:{tmp_path}/no")
    assert "train/CLASS/*.jpg" in str(caught.value)
    assert "no such folder" in str(caught.value)


def test_a_class_without_images_is_named(folder):
    (folder / "train" / "cow").mkdir()
    (folder / "val" / "cow").mkdir()
    with pytest.raises(DataError, match=r"train/cow holds no images"):
        open_images(f"imagefolder:{folder}")


def test_differing_classes_are_named(folder):
    write_image(folder / "val" / "cow" / "0.png")
    with pytest.raises(DataError, match="different classes: cow"):
        open_images(f"imagefolder:{folder}")


def test_an_unknown_kind_offers_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'imagefolder'"):
        open_images("imagefolders:x")


def test_an_unknown_torchvision_set_offers_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'CIFAR10"):
        open_images("torchvision:CIFAR11:somewhere")


def test_a_torchvision_set_that_is_not_there_says_how_to_get_it(tmp_path):
    with pytest.raises(DataError, match=r"download=True"):
        open_images(f"torchvision:CIFAR10:{tmp_path}")


def test_a_torchvision_set_opens_from_its_own_files(tmp_path):
    # torchvision's FakeData needs no files; it has neither split nor train and is refused.
    with pytest.raises(UsageError, match="FakeData has no training and test split"):
        open_images(f"torchvision:FakeData:{tmp_path}")


def test_svhn_in_its_published_layout_opens(tmp_path, monkeypatch):
    from scipy.io import savemat
    from torchvision.datasets import svhn

    monkeypatch.setattr(svhn, "check_integrity", lambda *_: True)
    for split, count in (("train", 4), ("test", 2)):
        pixels = np.arange(count, dtype=np.uint8) * np.ones((32, 32, 3, 1), np.uint8)
        labels = np.arange(1, count + 1)[:, None] % 10
        savemat(tmp_path / f"{split}_32x32.mat", {"X": pixels, "y": labels})
    data = open_images(f"torchvision:SVHN:{tmp_path}")
    assert data.id == "svhn"
    assert list(data.train.labels) == [1, 2, 3, 4]
    assert np.asarray(data.test.images[1]).flat[0] == 1


def write_svhn(folder, monkeypatch, **labels):
    """Digits of 32 x 32, grey as their place in the split."""
    from scipy.io import savemat
    from torchvision.datasets import svhn

    monkeypatch.setattr(svhn, "check_integrity", lambda *_: True)
    for split, targets in labels.items():
        pixels = np.arange(len(targets), dtype=np.uint8) * np.ones((32, 32, 3, 1), np.uint8)
        savemat(folder / f"{split}_32x32.mat", {"X": pixels, "y": np.array(targets)[:, None]})


def test_a_torchvision_set_may_not_test_on_what_it_does_not_train_on(tmp_path, monkeypatch):
    # SVHN calls the digit zero 10.
    write_svhn(tmp_path, monkeypatch, train=[1, 4, 4], test=[4, 10])
    with pytest.raises(DataError, match=r"SVHN:.* 1 labels that no training image has: 0\. Both"):
        open_images(f"torchvision:SVHN:{tmp_path}")


def test_classes_without_names_are_called_by_their_labels(tmp_path, monkeypatch):
    write_svhn(tmp_path, monkeypatch, train=[1, 4, 4], test=[4, 1])
    data = open_images(f"torchvision:SVHN:{tmp_path}")
    assert data.classes == ("0", "1", "2", "3", "4")
    assert data.classes[data.test.labels[0]] == "4"


def write_imagenette(folder, **wnids):
    """Imagenette, which has files and no split called test: of each split some classes."""
    for split, chosen in wnids.items():
        for value, wnid in enumerate(chosen, start=1):
            write_image(folder / f"imagenette2/{split}/{wnid}/{value}.png", 10 * value)
            place = folder / f"imagenette2/{split}/{wnid}"
            (place / f"{value}.png").rename(place / f"{value}.JPEG")


def test_a_torchvision_set_of_files_is_listed_without_decoding(tmp_path, monkeypatch):
    write_imagenette(tmp_path, train=("n01440764", "n03888257"), val=("n03888257", "n01440764"))
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("An image was opened."))
    data = open_images(f"torchvision:Imagenette:{tmp_path}/")
    monkeypatch.undo()
    # Labels follow the wnids.
    assert data.classes == ("tench, Tinca tinca", "parachute, chute")
    assert (list(data.train.labels), list(data.test.labels)) == ([0, 1], [0, 1])
    assert [np.asarray(image).flat[0] for image in data.test.images] == [20, 10]
    assert data.test.images.name_of(1) == f"{tmp_path}/imagenette2/val/n03888257/1.JPEG"


def test_a_torchvision_set_whose_parts_differ_in_classes_is_refused(tmp_path):
    write_imagenette(tmp_path, train=["n01440764"], val=["n01440764", "n03000684"])
    with pytest.raises(DataError, match=r"different classes: chain saw, chainsaw\."):
        open_images(f"torchvision:Imagenette:{tmp_path}")


def test_a_torchvision_set_without_one_label_an_image_is_a_question_of_usage(tmp_path):
    with pytest.raises(UsageError, match=r"EMNIST cannot be opened as .*'train'"):
        open_images(f"torchvision:EMNIST:{tmp_path}")


def test_a_truncated_image_is_named(folder):
    path = folder / "train/ant/0.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"0\.png cannot be decoded"):
        open_image(path)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_every_mode_becomes_three_channels(mode):
    image = Image.new(mode, (50, 40))
    assert to_input(InputSpec(size=24))(image).shape == (3, 24, 24)


def test_normalisation_by_hand():
    # 255 on the 0-1 scale is 1; (1 - 0.5) / 0.25 = 2, (1 - 0.2) / 0.4 = 2, (1 - 0) / 0.5 = 2.
    spec = InputSpec(size=2, mean=(0.5, 0.2, 0.0), std=(0.25, 0.4, 0.5), crop_pct=1.0)
    pixels = torch.full((3, 2, 2), 255, dtype=torch.uint8)
    torch.testing.assert_close(normalize(pixels, spec), torch.full((3, 2, 2), 2.0))
    torch.testing.assert_close(denormalize(normalize(pixels, spec), spec), torch.ones(3, 2, 2))


def test_bgr_turns_the_channels_before_normalising():
    spec = InputSpec(size=1, mean=(0, 0, 0), std=(1, 1, 1), channel_order="BGR", crop_pct=1.0)
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1)
    assert normalize(red, spec).flatten().tolist() == [0, 0, 1]
    assert denormalize(normalize(red, spec), spec).flatten().tolist() == [1, 0, 0]


def test_the_centre_crop_keeps_its_share():
    # A 100-pixel image with a white border of 10: crop_pct 0.8 keeps exactly the black inside.
    pixels = np.full((100, 100, 3), 255, np.uint8)
    pixels[10:90, 10:90] = 0
    spec = InputSpec(size=80, mean=(0, 0, 0), std=(1, 1, 1), crop_pct=0.8)
    assert to_input(spec)(Image.fromarray(pixels)).max() == 0


def test_an_impossible_input_is_refused():
    with pytest.raises(UsageError, match="no way to feed"):
        InputSpec(std=(1.0, 0.0, 1.0))


def test_batches_hold_each_image_once_an_epoch_and_resume_in_place():
    whole = list(EpochBatches(10, 3, seed=1, steps=range(9)))
    # 10 images make three batches of 3; one is left over.
    assert len(whole) == 9
    for epoch in range(3):
        images = [i for batch in whole[3 * epoch : 3 * epoch + 3] for _, i in batch]
        assert len(set(images)) == 9
        assert images == epoch_order(10, seed=1, epoch=epoch)[:9]
    assert list(EpochBatches(10, 3, seed=1, steps=range(6, 9))) == whole[6:]


def test_keys_differ_in_every_part():
    keys = {draw_key(*parts) for parts in ((0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0), (0, 0, 1, 0))}
    assert len(keys) == 5

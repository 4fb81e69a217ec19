import io
import os
import pickle
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from moco_eval.data.decoding import DAMAGES, DamagedImageError, damage_of, decode, decode_lazily
from moco_eval.data.encoded_images import ImageFiles
from moco_eval.data.folder_index import find_images
from moco_eval.data.images import open_image
from moco_eval.errors import DataError


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def white_png(side):
    """A black-and-white PNG of a few kilobytes, whatever its side."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    rows = zlib.compress((b"\0" + b"\xff" * (-(-side // 8))) * side, 1)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def saved(image, suffix, **options):
    file = io.BytesIO()
    image.save(file, suffix, **options)
    return file.getvalue()


def kind_of(data):
    with pytest.raises(DamagedImageError) as caught:
        decode(data, "it")
    return caught.value.kind


def test_bad_files_among_good_ones_are_found_each_by_its_kind(tmp_path, encode):
    jpeg, png = encode(suffix="JPEG"), encode()
    broken = bytearray(png)
    broken[len(png) // 2] ^= 0xFF
    bad = {
        "half.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "no_end.jpg": (jpeg[:-2], "truncated"),
        "nothing.jpg": (b"", "empty"),
        "page.jpg": (b"<html>404 Not Found</html>", "not an image"),
        "bomb.png": (white_png(20_000), "too large"),
        "chunk.png": (bytes(broken), "corrupt"),
    }
    for name, (data, _) in bad.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "gone.jpg")
    for number in range(4):
        (tmp_path / f"good{number}.jpg").write_bytes(jpeg)

    index = find_images(tmp_path)
    images = ImageFiles(index.root, index.names)
    found = {}
    for number, name in enumerate(index.names):
        try:
            images[number].convert("RGB")
        except DamagedImageError as error:
            found[name] = (error.kind, error.path, name in str(error))
    kinds = {name: kind for name, (_, kind) in bad.items()}
    kinds |= {"folder.jpg": "unreadable", "nowhere.jpg": "missing"}
    assert found == {name: (kind, f"{index.root}/{name}", True) for name, kind in kinds.items()}
    assert set(kinds.values()) <= set(DAMAGES)
    assert len(images) == 12


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_unreadable(tmp_path, encode):
    path = tmp_path / "secret.png"
    path.write_bytes(encode())
    path.chmod(0)
    with pytest.raises(DamagedImageError) as caught:
        open_image(path)
    assert caught.value.kind == "unreadable"


def test_a_file_that_ends_too_early_is_truncated_in_each_format(encode):
    kinds = {}
    for suffix in ("JPEG", "PNG", "WEBP", "BMP"):
        data = encode(suffix=suffix)
        kinds[suffix] = [kind_of(data[:size]) for size in (60, len(data) // 2)]
    assert all(found == ["truncated"] * 2 for found in kinds.values()), kinds


def test_a_whole_thumbnail_does_not_stand_for_the_end_of_its_image(encode):
    # A JPEG within the header of another, and bytes of a camera behind its end.
    thumbnail, jpeg = encode(suffix="JPEG", size=(8, 8)), encode(suffix="JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail
    whole = jpeg[:2] + segment + jpeg[2:]
    assert kind_of(whole[:-2]) == "truncated"
    assert decode(whole, "it").size == decode(whole + b"\xff\xda camera", "it").size == (24, 16)


def test_an_image_that_pillow_only_warns_of_is_too_large(monkeypatch):
    # 60 x 60 = 3600 pixels: beyond the limit of 3000 but not beyond twice that.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    assert kind_of(white_png(60)) == "too large"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert kind_of(white_png(60)) == "too large"
        assert decode(white_png(50), "it").size == (50, 50)


def test_a_text_that_would_fill_the_memory_is_damage(encode):
    # Pillow raises ValueError, of all things, for a compressed comment of 3 MiB.
    png, text = encode(), chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(3 << 20)))
    assert kind_of(png[:33] + text + png[33:]) == "corrupt"
    assert kind_of(png[:-12] + text + png[-12:]) == "corrupt"


def test_sixteen_bits_become_eight_by_scaling():
    # v / 257 rounded: 0, 1, 128 (of 32768 / 257 = 127.5...), 255. Clipped they would be 255.
    values = np.array([[0, 257], [32768, 65535]], dtype=np.uint16)
    files = {
        "png": saved(Image.fromarray(values), "PNG"),
        "tiff": saved(Image.fromarray(values), "TIFF"),
        "big-endian tiff": saved(Image.fromarray(values.astype(">u2")), "TIFF"),
        "pgm": b"P5 2 2 65535\n" + values.astype(">u2").tobytes(),
    }
    for name, data in files.items():
        pixels = np.asarray(decode(data, name).convert("RGB"))
        assert pixels[..., 0].tolist() == [[0, 1], [128, 255]], name


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_values_without_a_known_white_are_refused(kind):
    assert kind_of(saved(Image.fromarray(np.full((4, 4), 300, kind)), "TIFF")) == (
        "of unknown colours"
    )


def test_odd_modes_open_as_they_are_meant():
    red = Image.new("RGB", (8, 4), (255, 0, 0))
    palette = red.quantize(4)
    files = {
        "L": saved(red.convert("L"), "PNG"),
        "LA": saved(red.convert("LA"), "PNG"),
        "1": saved(red.convert("1"), "PNG"),
        "P": saved(palette, "PNG"),
        # Pillow warns when such a palette becomes RGB; a warning fails this test.
        "P, partly transparent": saved(palette, "PNG", transparency=bytes([128, 64])),
        "CMYK": saved(red.convert("CMYK"), "JPEG"),
        "RGBA": saved(red.convert("RGBA"), "PNG"),
    }
    for name, data in files.items():
        left, top = np.asarray(decode(data, name).convert("RGB"))[0, 0, :2].astype(int)
        # Grey of red: 0.299 * 255 = 76; in black and white it is dithered.
        grey = name in ("L", "LA")
        assert name == "1" or (abs(left - (76 if grey else 255)) < 5 and grey == (top > 50)), name


def test_of_an_animation_the_first_frame_counts():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("black", "white")]
    data = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert np.asarray(decode(data, "it").convert("RGB")).max() == 0


def test_the_orientation_of_exif_is_left_alone():
    image = Image.new("RGB", (10, 4))
    exif = image.getexif()
    exif[0x0112] = 6
    assert decode(saved(image, "JPEG", exif=exif), "it").size == (10, 4)


def test_a_lazy_jpeg_is_not_decoded_until_it_is_used(encode):
    data = encode(suffix="JPEG", size=(64, 48))
    lazy = decode_lazily(data, "it")
    lazy.draft("RGB", (32, 24))
    assert lazy.size == (32, 24)
    np.testing.assert_array_equal(
        np.asarray(decode_lazily(data, "it")), np.asarray(decode(data, "it"))
    )


def test_damage_that_shows_while_a_lazy_image_is_used_is_named(encode):
    jpeg, png = encode(suffix="JPEG"), encode()
    # Its quantisation tables have become comments: only who decodes it misses them.
    lazy = decode_lazily(jpeg.replace(b"\xff\xdb", b"\xff\xfe"), "a.tar:3.jpg")
    expected = r"a\.tar:3\.jpg.*corrupt"
    with pytest.raises(DamagedImageError, match=expected), damage_of("a.tar:3.jpg"):
        lazy.convert("RGB")
    # All that is no JPEG is decoded, and found damaged, at once.
    with pytest.raises(DamagedImageError):
        decode_lazily(png[: len(png) // 2], "it")


def test_a_mistake_of_ours_is_no_damage():
    with pytest.raises(ZeroDivisionError), damage_of("it"):
        _ = 1 / 0
    with pytest.raises(DataError) as caught, damage_of("it"):
        raise DataError("of another kind")
    assert not isinstance(caught.value, DamagedImageError)


def test_damage_is_told_through_a_loader_process(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    loader = DataLoader(
        ImageFiles(tmp_path, ["a.png"]), num_workers=1, multiprocessing_context="fork"
    )
    batches = iter(loader)
    with pytest.raises(DamagedImageError, match=r"a\.png cannot be decoded, it is not an image"):
        next(batches)
    # Only an iterator at its end has seen its processes off.
    with pytest.raises(StopIteration):
        next(batches)
    error = DamagedImageError("text", path="a.png", kind="empty")
    copied = pickle.loads(pickle.dumps(error))
    assert (str(copied), copied.path, copied.kind) == ("text", "a.png", "empty")

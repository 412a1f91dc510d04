from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from focaldet.data import ImageError, read_image

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)  # 8 wide, 6 high
GRAY = RGB[..., 0]


def rgb(picture: Image.Image) -> np.ndarray:
    assert picture.mode == "RGB"
    return np.asarray(picture)


def test_gray_is_repeated_and_alpha_dropped(tmp_path: Path) -> None:
    alpha = GRAY[..., None]
    for name, pixels, expected in [
        ("l.png", GRAY, GRAY[..., None].repeat(3, 2)),
        ("la.png", np.concatenate([alpha, 255 - alpha], 2), GRAY[..., None].repeat(3, 2)),
        ("rgba.png", np.concatenate([RGB, alpha], 2), RGB),
        ("rgb.png", RGB, RGB),
    ]:
        Image.fromarray(pixels).save(tmp_path / name)
        assert np.array_equal(rgb(read_image(tmp_path / name)), expected), name


def test_one_bit_palette_and_transparent_palette_are_looked_up(tmp_path: Path) -> None:
    bits = Image.fromarray(GRAY > 127)
    bits.save(tmp_path / "bits.png")
    expected = ((GRAY > 127) * 255)[..., None].repeat(3, 2)
    assert np.array_equal(rgb(read_image(tmp_path / "bits.png")), expected)

    palette = Image.fromarray(RGB).quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    palette.save(tmp_path / "palette.gif")
    palette.save(tmp_path / "transparent.png", transparency=b"\x00\x80\xff")
    assert np.array_equal(rgb(read_image(tmp_path / "palette.gif")), expected)
    assert np.array_equal(rgb(read_image(tmp_path / "transparent.png")), expected)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_scaled_not_clipped(suffix: str, tmp_path: Path) -> None:
    values = np.array([[0, 256, 257, 30000, 65534, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    pixels = rgb(read_image(tmp_path / f"deep.{suffix}"))
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 116, 254, 255]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 6), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=95)
    pixel = rgb(read_image(tmp_path / "cmyk.jpg"))[3, 4]
    assert pixel[0] > 240 and pixel[1] < 15 and pixel[2] < 15  # no cyan, all else: red


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(RGB[..., 0].astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ImageError, match="floating-point"):
        read_image(tmp_path / "float.tif")


# How to get from the upright picture to the stored pixels of each EXIF orientation.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def save_with_orientation(path: Path, orientation: int) -> np.ndarray:
    stored = np.ascontiguousarray(STORED[orientation](RGB))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(path, exif=exif)
    return stored


@pytest.mark.parametrize("orientation", STORED)
def test_exif_is_applied_where_the_announced_size_says_so(orientation: int, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    stored = save_with_orientation(path, orientation)
    assert np.array_equal(rgb(read_image(path)), RGB), "without a size: as a viewer"

    as_stored = read_image(path, stored.shape[:2])
    assert np.array_equal(rgb(as_stored), stored), "the size of the stored pixels: as stored"

    if orientation >= 5:  # a quarter turn
        assert np.array_equal(rgb(read_image(path, RGB.shape[:2])), RGB)


def test_another_size_is_an_error_with_both_sizes(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    save_with_orientation(path, 6)
    with pytest.raises(ImageError, match=r"photo\.png' is 8 x 6 .* for 9 x 6"):
        read_image(path, (6, 9))
    Image.fromarray(RGB).save(path)
    with pytest.raises(ImageError, match="is 8 x 6 .* for 6 x 8"):
        read_image(path, (8, 6))  # transposed, but no orientation says so


def broken_files(folder: Path) -> dict[str, bytes]:
    files = {}
    for suffix in ("jpg", "png", "tif", "bmp", "gif", "webp"):
        noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"whole.{suffix}")
        content = (folder / f"whole.{suffix}").read_bytes()
        files[f"half.{suffix}"] = content[: len(content) // 2]
        files[f"head.{suffix}"] = content[:20]
    files |= {"empty.jpg": b"", "text.png": b"no image at all, just text", "zeros.jpg": bytes(500)}
    whole = (folder / "whole.png").read_bytes()
    files["flipped.png"] = whole[:200] + bytes([whole[200] ^ 255]) + whole[201:]
    # A picture format for Pillow, a program for Ghostscript: never run.
    files["program.eps"] = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n%%EndComments\nquit\n"
    return files


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's, of the TIFF cut in half
def test_every_broken_file_is_named_in_one_line(
    tmp_path: Path, one_line: Callable[[BaseException], str]
) -> None:
    for name, content in broken_files(tmp_path).items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError) as caught:
            read_image(tmp_path / name)
        assert name in one_line(caught.value) and "expected" in str(caught.value), name


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"nowhere\.jpg' does not exist"):
        read_image(tmp_path / "nowhere.jpg")
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path)


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(RGB).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(ImageError, match=r"large\.png"):
        read_image(tmp_path / "large.png")


def test_reading_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    save_with_orientation(path, 6)
    before = path.read_bytes(), path.stat().st_mtime_ns
    read_image(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before

from __future__ import annotations

import io
import struct
import zlib

import pytest
from PIL import Image

from eval.reading.images import check_image, open_image
from eval.reading.sample import Sample


def sample(path, root=None):
    return Sample("q1", "?", path, root=root)


KINDS = [(mode, ".tif") for mode in ("RGB", "L", "P", "1", "LA", "RGBA", "CMYK", "I;16")]
KINDS += [(mode, ".png") for mode in ("RGB", "L", "P", "1", "LA", "RGBA", "I;16")]
KINDS += [(mode, ".jpg") for mode in ("RGB", "L", "CMYK")]


@pytest.mark.parametrize(("mode", "ending"), KINDS)
def test_every_kind_of_picture_becomes_rgb(tmp_path, mode, ending):
    path = tmp_path / f"x{ending}"
    Image.new(mode, (5, 3)).save(path)
    image = open_image(sample(path, tmp_path))
    assert image.mode == "RGB"
    assert image.size == (5, 3)
    assert check_image(sample(path, tmp_path)) is None


def test_palette_colours_are_resolved_and_alpha_is_dropped(tmp_path):
    picture = Image.new("RGB", (2, 2), (200, 30, 40)).convert("P", palette=Image.Palette.ADAPTIVE)
    picture.save(tmp_path / "p.png")
    assert open_image(sample(tmp_path / "p.png")).getpixel((0, 0)) == (200, 30, 40)
    Image.new("RGBA", (2, 2), (10, 20, 30, 0)).save(tmp_path / "a.png")
    assert open_image(sample(tmp_path / "a.png")).getpixel((0, 0)) == (10, 20, 30)


def test_one_pixel_is_a_picture(tmp_path):
    Image.new("L", (1, 1), 7).save(tmp_path / "x.png")
    assert open_image(sample(tmp_path / "x.png")).getpixel((0, 0)) == (7, 7, 7)


def test_bytes_are_pictures_too():
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (1, 2, 3)).save(buffer, "PNG")
    assert open_image(sample(buffer.getvalue())).size == (4, 4)
    with pytest.raises(ValueError, match=r"picture of question 'q1': expected a picture .*not a picture"):
        open_image(sample(b"nonsense"))


def broken(match):
    return pytest.raises(ValueError, match=match)


def test_a_missing_picture(tmp_path):
    with broken(r"x.png of question 'q1': no such file"):
        open_image(sample(tmp_path / "x.png", tmp_path))
    assert "no such file" in str(check_image(sample(tmp_path / "x.png", tmp_path)))


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_truncated_picture(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with broken(f"x.{ending} of question 'q1': expected a whole (JPEG|PNG) picture"):
        open_image(sample(path, tmp_path))
    assert check_image(sample(path, tmp_path)) is not None


def test_an_empty_file(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"")
    with broken("not a picture"):
        open_image(sample(tmp_path / "x.jpg", tmp_path))


def huge(width, height):
    """A PNG that claims a size, without the pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(20_000, 4), (4, 20_000), (16_000, 16_000), (60_000, 60_000)])
def test_pictures_that_are_too_large_are_never_decoded(width, height):
    with broken("16,384|pixels"):
        open_image(sample(huge(width, height)))


def test_a_path_that_leaves_the_folder(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "secret.png")
    for path in (root / ".." / "secret.png", tmp_path / "secret.png"):
        with broken(r"secret.png: leads out of .*images"):
            open_image(sample(path, root))
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    with broken("leads out of"):
        open_image(sample(root / "link.png", root))
    assert "leads out of" in str(check_image(sample(root / "link.png", root)))


def test_the_folder_itself_may_be_a_link(tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    Image.new("RGB", (2, 2)).save(real / "x.png")
    (tmp_path / "images").symlink_to(real)
    assert open_image(sample(tmp_path / "images" / "x.png", tmp_path / "images")).size == (2, 2)


def test_no_format_that_runs_another_program(tmp_path):
    path = tmp_path / "x.jpg"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    with broken("not a picture"):
        open_image(sample(path, tmp_path))

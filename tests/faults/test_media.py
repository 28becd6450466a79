"""Pictures and clips that strangers made: bombs, ways out of the folder, absurd shapes, decoders' worst days."""

from __future__ import annotations

import io
import os
import random
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eval.core.settings import FILLS
from eval.reading.images import MAX_PIXELS, MAX_SIDE, check_image, open_clip, open_image
from eval.reading.sample import Sample
from eval.reading.video import Clips, read_frames
from eval.showing.cards import THUMBNAIL, thumbnail
from pruners.models import images

quick = settings(max_examples=40)
GREY = (122, 116, 104)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, pixels=b"", more=b""):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def gif(width, height, frames=1):
    """A whole GIF of one colour, packed as well as it can be; every frame is as large as the screen."""
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    data = io.BytesIO()
    Image.new("P", (width, height)).save(data, "GIF")
    body = data.getvalue()
    image = body[body.index(b",\0\0\0\0") : -1]
    return screen + image * frames + b";"


BOMBS = {
    "a size without pixels": png(60_000, 60_000),
    "just too wide": png(MAX_SIDE + 1, 1),
    "just too many": png(10_000, MAX_PIXELS // 10_000 + 1),
    "text that unpacks to 200 MB": png(1, 1, b"\0" * 4, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200 << 20)))),
    "a GIF too wide": gif(MAX_SIDE + 1, 1),
    "a GIF of a screen that nothing fills": b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + gif(1, 1)[19:],
    "a GIF of 100,000 frames": gif(1, 1, 100_000),
    "a colour profile of 200 MB": png(1, 1, b"\0" * 4, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(200 << 20)))),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_or_stay_small(name):
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        assert open_image(Sample("q", "?", BOMBS[name])).size == (1, 1)
    except ValueError as error:
        assert "question 'q'" in str(error)  # noqa: PT017
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100_000, f"{grown} KB"


@quick
@given(seed=st.integers(0, 1 << 30), form=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]))
def test_garbled_pictures_are_pictures_or_named(seed, form):
    rng, file = random.Random(seed), io.BytesIO()
    Image.effect_noise((16, 12), 50).convert("RGB").save(file, form)
    data = bytearray(file.getvalue())
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data))
        data[at : at + rng.randint(0, 4)] = rng.randbytes(rng.randint(0, 4))
    sample = Sample("q", "?", bytes(data))
    try:
        assert open_image(sample).mode == "RGB"
    except ValueError as error:
        assert "question 'q'" in str(error)  # noqa: PT017
    check_image(sample)


@pytest.mark.parametrize("size", [(MAX_SIDE, 1), (1, MAX_SIDE), (5000, 4), (3, 4999), (4500, 4400)])
def test_absurd_shapes_are_padded_in_little_memory_and_to_the_same_bits(size, monkeypatch):
    import resource

    image = Image.effect_noise(size, 90).convert("RGB")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = images.square_resized(image, GREY, 30)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    assert found.size == (30, 30)
    if max(size) < MAX_SIDE:
        assert found.tobytes() == images.resized(images.square(image, GREY), (30, 30)).tobytes()
    file = io.BytesIO()
    image.save(file, "PNG")
    assert thumbnail(Sample("q", "?", file.getvalue())).startswith("data:image/webp")
    assert max(size) > THUMBNAIL


@quick
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 20), st.sampled_from(FILLS))
def test_bands_change_no_bit(width, height, edge, fill):
    whole, banded = images.BAND, 7 * max(width, height)
    image = Image.effect_noise((width, height), 90).convert("RGB")
    try:
        images.BAND = banded
        found = images.square_resized(image, GREY, edge, fill)
    finally:
        images.BAND = whole
    assert found.tobytes() == images.resized(images.square(image, GREY, fill), (edge, edge)).tobytes()


@pytest.fixture
def outside(tmp_path):
    """A folder of media with a picture and a clip next to it that it must not show."""
    home = tmp_path / "media"
    home.mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "secret.png")
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    for kind in ("png", "mp4"):
        (home / f"link.{kind}").symlink_to(tmp_path / f"secret.{kind}")
        (home / f"loop.{kind}").symlink_to(home / f"loop.{kind}")
    (home / "up").symlink_to(tmp_path)
    return home


WAYS = ["../secret", "link", "up/secret", "/etc/passwd", "./../media/../secret"]


@pytest.mark.parametrize("way", WAYS)
def test_no_path_leaves_the_folder(outside, way):
    for kind, reader in (("png", open_image), ("mp4", lambda sample: open_clip(sample, Clips()))):
        path = outside / f"{way}.{kind}" if way != "/etc/passwd" else outside / way
        media = {"image": path} if kind == "png" else {"video": path}
        sample = Sample("q", "?", root=outside, **media)
        with pytest.raises(ValueError, match="leads out of"):
            reader(sample)
        assert "leads out of" in str(check_image(sample))


@pytest.mark.parametrize("name", ["loop.png", "a\0b.png", "x" * 5000])
def test_names_that_no_file_can_have(outside, name):
    with pytest.raises(ValueError, match=r"question 'q'|expected the path"):
        open_image(Sample("q", "?", outside / name, root=outside))


def test_every_benchmark_keeps_its_media_inside(world):
    from eval import benchmarks

    for name in benchmarks.NAMES:
        for sample in benchmarks.get(name).load(world)[:3]:
            if isinstance(sample.image, os.PathLike) or sample.video:
                assert sample.root is not None, name


def test_a_clip_of_giant_frames_is_refused_before_they_are_pictures(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "wide.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 10_000, 8_100, "gray"
        for packet in [*stream.encode(av.VideoFrame(10_000, 8_100, "gray")), *stream.encode()]:
            out.mux(packet)
    with pytest.raises(ValueError, match=r"wide\.mkv: expected frames of at most 80,000,000 pixels"):
        read_frames(path)


def test_the_decoder_goes_on_after_a_file_it_could_not_read(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no clip")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"a\.mp4"):
            read_frames(tmp_path / "a.mp4")

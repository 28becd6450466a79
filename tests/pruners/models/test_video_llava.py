"""Video-LLaVA: clips with a CLS token per frame, padded pictures, the llava_v1 system sentence."""

import numpy as np
import pytest
import torch
from transformers import VideoLlavaImageProcessor

from debias import Padding
from pruners.models import Request, images


def clip(builders, count=8, size=(90, 60)):
    return [builders.picture(*size, seed) for seed in range(count)]


def test_a_clip_is_its_frames_with_cls_in_front_of_each(adapters, builders):
    one = adapters("video_llava")
    encoded = one.encode([Request("What happens?", video=clip(builders))])
    (span,) = one.spans({"input_ids": encoded.inputs["input_ids"]}, encoded.sizes)[0]
    assert (span.start, span.frames, span.grid, span.total) == (35, 8, (6, 6), 8 * 37)
    assert span.special.nonzero()[:, 0].tolist() == list(range(0, 296, 37))
    assert span.size is None
    assert encoded.sizes == [None]
    assert Padding(0.0).valid(span).all()  # frames are cropped, never padded
    xy, view = one.places(span)
    assert xy[:3].tolist() == [[-2, -2], [0, 0], [1, 0]]
    assert view[[1, 37 * 3 + 5, 295]].tolist() == [0, 3, 7]


def test_other_numbers_of_frames(adapters, builders):
    one = adapters("video_llava")
    encoded = one.encode([Request("What happens?", video=clip(builders, 4))])
    given = {name: encoded.inputs[name] for name in ("input_ids", "pixel_values_videos")}
    assert [(span.frames, span.total) for span in one.spans(given)[0]] == [(4, 148)]
    with pytest.raises(ValueError, match="148 image tokens"):
        one.spans({"input_ids": encoded.inputs["input_ids"]})


def test_pictures_and_clips_side_by_side(adapters):
    one = adapters("video_llava")
    config = one.model.config
    picture, film = [config.image_token_id] * 36, [config.video_token_id] * 296
    ids = torch.tensor([[3, *picture, *film, *picture, *picture, 4]])
    (row,) = one.spans({"input_ids": ids}, [(10, 20), None, (30, 40), (50, 60)])
    assert [(span.start, span.frames, span.size) for span in row] == [
        (1, 1, (10, 20)), (37, 8, None), (333, 1, (30, 40)), (369, 1, (50, 60)),
    ]  # fmt: skip


def test_frames_are_scaled_and_cropped(adapters):
    """A frame with bars at its sides: the middle square survives, with the picture's own colours."""
    one = adapters("video_llava")
    frame = np.zeros((60, 120, 3), dtype=np.uint8)
    frame[:, 30:90] = 255
    pixels = one.clip([one_image(frame)] * 2).inputs["pixel_values_videos"]
    assert pixels.shape == (1, 2, 3, 84, 84)
    assert (pixels[..., 2:-2] > 1.5).all()


def test_frames_follow_bilinear_interpolation_by_hand(adapters):
    one = adapters("video_llava")
    frame = np.arange(2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 3) * 20
    pixels = one.frame(one_image(frame))
    plain = images.normalised(one_image(frame), one.setting("image_mean"), one.setting("image_std"))
    at = ((np.arange(84) + 0.5) * 2 / 84 - 0.5).clip(0, 1)  # pixel centres, held at the edges
    weight = torch.tensor(at, dtype=torch.float32)
    rows = plain[:, :1] * (1 - weight)[:, None] + plain[:, 1:] * weight[:, None]
    assert torch.allclose(pixels, rows[:, :, :1] * (1 - weight) + rows[:, :, 1:] * weight, atol=1e-5)


def one_image(array):
    from PIL import Image

    return Image.fromarray(array)


@pytest.mark.parametrize("size", [(40, 70), (131, 50), (84, 84)])
def test_pictures_are_padded_first(size, adapters, builders):
    """The hub's processor on a picture that was made square; by itself it would crop."""
    one, picture = adapters("video_llava"), builders.picture(*size)
    square = images.square(picture, images.mean_colour(one.setting("image_mean")))
    hub = VideoLlavaImageProcessor(size={"shortest_edge": 84}, crop_size={"height": 84, "width": 84})
    (expected,) = hub(square, return_tensors="pt", return_legacy_image_output=False).values()
    (pixels,) = one.picture(picture).inputs.values()  # its name depends on the version of transformers
    assert torch.allclose(pixels, expected, atol=1e-5)


def test_prompt_speaks_of_a_human(adapters, builders):
    one = adapters("video_llava")
    assert one.prompt(Request("What happens?", video=clip(builders))) == (
        "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the human's questions. USER: <video>\nWhat happens? ASSISTANT:"
    )
    assert "curious user" in one.prompt(Request("What?", conversation="vicuna_v1"))


def test_long_prompts_are_not_cut(adapters, builders):
    one = adapters("video_llava")
    limit = one.tokenizer.model_max_length
    try:
        one.tokenizer.model_max_length = 50
        encoded = one.encode([Request("What is this? " * 40, video=clip(builders))])
    finally:
        one.tokenizer.model_max_length = limit
    assert encoded.inputs["input_ids"].shape[1] > 296 + 100


def test_a_picture_has_the_name_that_the_model_takes(adapters, builders, monkeypatch):
    """It differs between versions of transformers."""
    from transformers import VideoLlavaForConditionalGeneration as Known

    def new(self, input_ids=None, pixel_values=None):
        """As it is now."""

    def old(self, input_ids=None, pixel_values_images=None):
        """As it was once."""

    one, picture, found = adapters("video_llava"), builders.picture(40, 70), []
    for forward, name in ((new, "pixel_values"), (old, "pixel_values_images")):
        monkeypatch.setattr(Known, "forward", forward)
        shown = one.picture(picture)
        assert list(shown.inputs) == [name]
        found.append(shown.inputs[name])
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("size", "box"), [((90, 61), (14, 0, 75, 61)), ((60, 93), (0, 16, 60, 76)), ((8, 8), (0, 0, 8, 8))]
)
def test_the_middle_square_of_a_frame_is_seen(size, box, adapters, builders):
    frame = builders.picture(*size)
    assert adapters("video_llava").window(frame).tobytes() == frame.crop(box).tobytes()


def test_the_middle_of_a_scaled_frame_is_taken(adapters, builders):
    one = adapters("video_llava")
    for size, rows, columns in (((90, 60), slice(0, 84), slice(21, 105)), ((60, 95), slice(24, 108), slice(0, 84))):
        frame = builders.picture(*size)
        pixels = images.normalised(frame, one.setting("image_mean"), one.setting("image_std"))
        shape = (84, 126) if size == (90, 60) else (133, 84)
        scaled = torch.nn.functional.interpolate(pixels[None], size=shape, mode="bilinear")[0]
        assert torch.equal(one.frame(frame), scaled[:, rows, columns])

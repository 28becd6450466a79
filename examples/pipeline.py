"""Pruning in a Hugging Face pipeline: the model stays the pipeline's own, the method is a context around the call.

python examples/pipeline.py                                              the embedded model and a drawn picture
python examples/pipeline.py --model llava-hf/llava-1.5-7b-hf --image photo.jpg --question "What is this?"
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import pipeline

from debias import Debias, Padding
from pruners import make

EMBEDDED = Path(__file__).resolve().parent.parent / "assets" / "tiny-llava"


def ask(pipe: Any, image: Image.Image, question: str, arm: str, **method: Any) -> tuple[str, list[int]]:
    """The answer of the pipeline, and the raster indices of the visual tokens that it was given by."""
    turn = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": question}]}]
    with make("fastv", **method)(pipe.model, Debias.paper("fastv", arm=arm), sizes=[image.size]) as trace:
        out = pipe(text=turn, generate_kwargs={"max_new_tokens": 16, "do_sample": False}, return_full_text=False)
    return out[0]["generated_text"].strip(), trace.kept[0][0].tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(EMBEDDED))
    parser.add_argument("--image", type=Path)
    parser.add_argument(
        "--question", default="What colour is the circle?\nAnswer the question using a single word or phrase."
    )
    parser.add_argument("--keep", type=float, default=0.25, help="share of the visual tokens that stay")
    args = parser.parse_args()

    pipe = pipeline("image-text-to-text", model=args.model)
    # LLaVA was trained on pictures padded to a square. The processors on the hub cut out the middle instead: then there
    # is no padding to be silenced, and what lies outside the middle is never seen.
    pipe.image_processor.do_pad = True

    image = Image.open(args.image).convert("RGB") if args.image else drawn()
    vision = pipe.model.config.vision_config
    side = vision.image_size // vision.patch_size
    shows_picture = Padding().valid(image.size, (side, side))
    for arm in ("none", "padding"):
        answer, kept = ask(pipe, image, args.question, arm, keep=args.keep)
        empty = len(kept) - int(shows_picture[kept].sum())
        print(f"{arm:<8} {answer}   ({len(kept)} visual tokens, {empty} of them padding)")


def drawn() -> Image.Image:
    """A picture of the embedded model's world: one red circle, and two thirds of the padded square empty."""
    from tiny.drawn import world

    return world.draw(world.scene(2_000_007_059))


if __name__ == "__main__":
    main()

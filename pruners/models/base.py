"""What a model family must say: where its parts are, where images stand in a prompt, how prompts and pictures are made.

The defaults fit models whose language model is like LLaMA and whose vision tower is like CLIP; a family overrides what
differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import torch
from PIL import Image
from torch import Tensor

from debias import Span
from pruners.loading.folder import checked, local
from pruners.loading.model import loaded, sentences
from pruners.models import images, prompts
from pruners.models.request import IMAGE, VIDEO, Encoded, Request, Shown, Size, cut, left_padded, place
from pruners.parts.canvas import Canvas
from pruners.parts.patches import Patches
from pruners.parts.tower import Tower, heads

A = TypeVar("A", bound="Adapter")
Features = Literal["listed", "stacked", "together"]
Opens = Literal["nothing", "tokens", "views"]


class Adapter:
    """A family's knowledge, bound to one Hugging Face model.

    processor: what the checkpoint says about preparing pictures. tokenizer: None: the processor's.
    """

    pads: ClassVar[bool] = True  # sources are padded, so a padding debias needs their sizes
    fills: ClassVar[bool] = False  # `fill` says what the border shows that makes pictures square
    fill: images.Fill = "mean"
    renumbers: ClassVar[bool] = True  # positions count tokens, so that methods may number what is left anew
    media: ClassVar[tuple[str, ...]] = ()  # further inputs of the model that spans() reads
    # What methods may see of the vision tower: nothing; patches that are the prompt's tokens one by one; or views of a
    # picture, whose patches `views`, `packed`, `ordered`, `joined` and `shows` bring in line with the tokens.
    opens: ClassVar[Opens] = "nothing"
    # How the model hands on what its tower made of several pictures, each of as many tokens: a list of blocks, or one
    # block; "together": how many tokens a picture has depends on the picture, and features are kept by the batch.
    features: ClassVar[Features] = "together"
    one_square: ClassVar[bool] = False  # every picture is one square of the tower's size, and each patch a token
    cuts_tiles: ClassVar[bool] = False  # `max_patches` says into how many tiles at most a picture is cut
    frames_apart: ClassVar[bool] = False  # a clip is several spans, with words between its frames
    trend_media: ClassVar[str] = "image"  # "video": trends of the family are those of clips
    grounding: ClassVar[str] = "llava"  # in whose words the model was taught to find what a sentence describes
    authors_key: ClassVar[str] = ""  # what only the authors' own configuration of the family holds
    known: ClassVar[tuple[str, ...]] = ()  # checkpoints on the hub, for messages; others of the same classes will do
    gap: ClassVar[str] = "\n"  # what follows a picture that stands before the question
    prepared: ClassVar[Mapping[str, Any]] = images.CLIP  # how pictures are prepared where the checkpoint does not say

    def __init__(self, model: Any, processor: Any = None, tokenizer: Any = None) -> None:
        self.model = model
        self.processor = processor
        self.tokenizer: Any = tokenizer if tokenizer is not None else getattr(processor, "tokenizer", None)

    # -- what a checkpoint's configuration tells, without its weights --------------------------------------------------
    @classmethod
    def canvas(
        cls, config: Mapping[str, Any], prepared: Mapping[str, Any], max_patches: int | None = None
    ) -> Callable[[Size], Canvas]:
        """(width, height) of a picture -> where its tokens lie; `prepared`: what the checkpoint says about pictures."""
        raise ValueError(
            f"where the tokens of {config.get('model_type')} lie in a picture is not worked out; "
            f"{cls.__name__} has no canvas(config, prepared, max_patches)"
        )

    @classmethod
    def takes_clips(cls) -> bool:
        """Whether the family is asked about clips, too."""
        return cls.clip is not Adapter.clip

    @property
    def joined_frames(self) -> int:
        """How many frames of a clip the tower joins into one frame of tokens."""
        return 1

    # -- the parts of the model --------------------------------------------------------------------------------------
    @property
    def inner(self) -> Any:
        """The module whose forward sees input_ids, attention_mask and past_key_values."""
        return self.model.model

    @property
    def decoder(self) -> Any:
        """The language model: .layers, .rotary_emb, .config."""
        return self.inner.language_model

    @property
    def tower(self) -> Tower:
        """The vision tower, for methods that prune in or right after it."""
        raise ValueError(
            f"{type(self).__name__} does not open its vision tower; methods that prune there cannot run on it"
        )

    @property
    def device(self) -> torch.device:
        """Where the inputs go; the weights of an offloaded model may lie nowhere."""
        return home(self.model, self.model.device)

    def project(self, features: Tensor) -> Tensor:
        """[m, C] tower features as [m, D] tokens."""
        projected: Tensor = self.inner.multi_modal_projector(features[None])[0]
        return projected

    def views(self, span: Span) -> int:
        """How many views of a picture the tower sees, each by itself; more than one if there are tiles or frames."""
        return 1

    def packed(self, span: Span) -> int | None:
        """Patches of each view, where the tower takes all views of a batch laid end to end; None: each has a row."""
        return None

    def ordered(self, span: Span, states: Tensor) -> Tensor:
        """[n, C] of one packed view, in the order in which `joined` takes them."""
        return states

    def looking(
        self, attn: Any, asking: Tensor, states: Tensor, tables: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [h, q, c] of `asking` [q, C] and keys [h, n, c] of `states` [n, C] in the tower's attention, both of
        them normed input of it, as it multiplies them; and the keys before rotation by `tables` (cos, sin [n, c])."""
        key = heads(attn, "k", states)
        return heads(attn, "q", asking), key, key

    def looking_scale(self, attn: Any) -> float:
        """What the products of the tower's attention are multiplied by."""
        return float(attn.scale)

    def joined(self, patches: Patches) -> Patches:
        """What the tower knows of one view, where one token of the prompt shows several patches."""
        return patches

    def shows(self, span: Span) -> Tensor:
        """[length] which (joined) patch of its views, laid end to end, each token shows; -1: none."""
        return torch.arange(span.total)

    def blended(self, patches: Patches, span: Span) -> Patches:
        """What is known token by token, made of what is known of the patches that `shows` names."""
        return patches

    def filmed(self, inputs: Mapping[str, Any], slots: list[list[Tensor]]) -> list[list[bool]]:
        """Per row and span, whether the tower sees it in its run over clips, which follows that over pictures."""
        token = getattr(self.model.config, "video_token_id", None)
        return [[int(ids[at[0]]) == token for at in row] for ids, row in zip(inputs["input_ids"], slots, strict=True)]

    def hooks(self, state: Any) -> list[Any]:
        """Further hooks of the family for the time of a block (pruners/engine/state.py); each has .remove()."""
        return []

    # -- attention -----------------------------------------------------------------------------------------------------
    def scale(self, attn: Any) -> float:
        """What products of queries and keys are multiplied by."""
        return float(attn.scaling)

    def queries(self, attn: Any, states: Tensor) -> Tensor:
        """[..., H, d] of normed [..., D], before rotation."""
        return self._heads(attn, "q", states)

    def keys(self, attn: Any, states: Tensor) -> Tensor:
        """[..., H_kv, d], before rotation."""
        return self._heads(attn, "k", states)

    def values(self, attn: Any, states: Tensor) -> Tensor:
        """[..., H_kv, d]"""
        return self._heads(attn, "v", states)

    def _heads(self, attn: Any, which: str, states: Tensor) -> Tensor:
        heads: Tensor = getattr(attn, f"{which}_proj")(states).unflatten(-1, (-1, attn.head_dim))
        norm = getattr(attn, f"{which}_norm", None)
        return heads if norm is None else norm(heads)

    def rotate(self, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[H, n, d] turned by the tables [n, d]."""
        first, second = states.chunk(2, -1)
        return states * cos + torch.cat((-second, first), -1) * sin

    def unrotate(self, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """The inverse of `rotate`, also where the tables are scaled."""
        return self.rotate(states, cos, -sin) / (cos * cos + sin * sin)

    def rotary(self, like: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos, sin [B, n, d] of positions [B, n]."""
        cos, sin = self.decoder.rotary_emb(like, positions)
        return cos, sin

    # -- where images stand --------------------------------------------------------------------------------------------
    def spans(self, inputs: Mapping[str, Any], sizes: Sequence[Size | None] | None = None) -> list[list[Span]]:
        """Per row, the spans of its images. inputs: "input_ids" [B, L] on the CPU, and what `media` names."""
        raise TypeError(f"{type(self).__name__} does not say where images stand; define spans(inputs, sizes)")

    def slots(self, inputs: Mapping[str, Any], spans: list[list[Span]]) -> list[list[Tensor]]:
        """Per row and span, the places of its tokens in the row; side by side unless the family says otherwise."""
        return [[torch.arange(span.start, span.start + span.total) for span in row] for row in spans]

    def places(self, span: Span) -> tuple[Tensor, Tensor]:
        """Where each token of the unpruned span lies: (column, row) [length, 2], and which picture it lies in [length].

        Places in different pictures (frames, a thumbnail) do not compare. Tokens that are not a patch lie far from all.
        A picture in tiles is one picture, 0, and the whole of it that follows them is another, 1.
        """
        rows, columns = span.grid
        frame = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).flip(-1)
        xy = torch.full((span.total, 2), -2)
        view = torch.zeros(span.total, dtype=torch.long)
        patch = torch.ones(span.total, dtype=torch.bool) if span.special is None else ~span.special.cpu()
        xy[patch] = frame.repeat(span.frames, 1)
        view[patch] = torch.arange(span.frames).repeat_interleave(rows * columns)
        across = self.tile_columns(span) if span.frames > 1 else None
        if across is None:
            return xy, view
        corner = torch.stack([view % across * columns, view // across * rows], -1)
        whole = view == span.frames - 1
        return torch.where(whole[:, None], xy, xy + corner), whole.long()

    def tile_columns(self, span: Span) -> int | None:
        """How many tiles lie side by side, where the frames of a span are a picture's tiles, row by row, and then all
        of it; None: each frame is a picture of its own, or the picture's size, which tells how they lie, is unknown."""
        return None

    # -- prompts and pictures ------------------------------------------------------------------------------------------
    @classmethod
    def load(
        cls: type[A],
        path: str | Path,
        dtype: torch.dtype | str = "auto",
        device: str | torch.device | None = None,
        attention: str | None = None,
        tensor_parallel: int = 1,
        zero: bool = False,
        allow_missing: bool = False,
    ) -> A:
        """Model, processor and tokenizer of a checkpoint folder or hub id. device="auto" spreads a large model over
        what the machine has, layer by layer; tensor_parallel=N splits every layer over the N processes of a launch;
        zero=True gives each of them a part of every weight, put together while a layer runs (DeepSpeed).
        attention: None or "auto" takes the quickest kernel that is installed. dtype: torch's, its name, "auto" for
        the checkpoint's, or "8bit" or "4bit" for the decoder's weights (everything else in bfloat16 on a GPU).
        allow_missing: go on where the checkpoint lacks tensors of the model, or has others; what is lacking is random.
        """
        folder = local(path)
        shapes = checked(folder)
        with sentences(folder):
            processor, tokenizer = cls.load_processor(str(folder))
            model = loaded(folder, shapes, dtype, device, attention, tensor_parallel, zero, allow_missing)
        model.config._name_or_path = str(path)
        return cls(model.eval(), processor, tokenizer)

    @classmethod
    def outline(cls: type[A], path: str | Path) -> A:
        """The adapter on a checkpoint's architecture without any weights, to ask what can be done with it."""
        from transformers import AutoConfig, AutoModelForImageTextToText

        config = AutoConfig.from_pretrained(str(path), trust_remote_code=False)
        with torch.device("meta"):
            return cls(AutoModelForImageTextToText.from_config(config, trust_remote_code=False))

    @classmethod
    def load_processor(cls, path: str) -> tuple[Any, Any]:
        """(what the checkpoint says about preparing pictures, tokenizer)"""
        from transformers import AutoTokenizer

        return images.settings(path), AutoTokenizer.from_pretrained(path, trust_remote_code=False)

    def setting(self, name: str, video: bool = False) -> Any:
        """A number for preparing pictures, or clips: the checkpoint's, else what the family published."""
        kind = "video_processor" if video else "image_processor"
        value = getattr(getattr(self.processor, kind, None if video else self.processor), name, None)
        return self.prepared[f"video_{name}" if video else name] if value is None else value

    @property
    def conversations(self) -> tuple[str, ...]:
        """The templates that the model was trained on, the usual template first."""
        return ("vicuna_v1", "llava_v1")

    def prompt(self, request: Request) -> str:
        """The text as the model was trained on it, with markers where the media go."""
        question = prompts.with_media(request.text, request.media, self.gap)
        return prompts.wrap(question, request.conversation, self.conversations)

    def picture(self, image: Image.Image) -> Shown:
        """An image made ready."""
        raise TypeError(f"{type(self).__name__} does not prepare pictures; define picture(image)")

    def pictures(self, given: Sequence[Image.Image | Shown]) -> list[Shown]:
        """The pictures of one question made ready, those that are not already."""
        return [ready(image, self.picture) for image in given]

    def clip(self, frames: Sequence[Image.Image]) -> Shown:
        """A clip made ready; which frames stand for it is the caller's choice."""
        raise ValueError(f"models of type {self.model.config.model_type} take pictures, not clips")

    def window(self, frame: Image.Image) -> Image.Image:
        """What the model sees of a frame of a clip: all of it, unless the family cuts out a part."""
        return frame

    def begin(self) -> list[int]:
        """Ids before the prompt's first."""
        return [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]

    def encode(self, requests: Sequence[Request], device: torch.device | str | None = None) -> Encoded:
        """A left-padded batch on the model's device, with the prompts and pictures of the authors' evaluations.

        device: where to put it instead. Prompts are never truncated, also where they are longer than the tokenizer's
        model_max_length.
        """
        if self.tokenizer is None:
            raise ValueError("this adapter has no tokenizer; get one with pruners.models.adapter(path).load(path)")
        rows, media = [], []
        for request in requests:
            clips = [] if request.video is None else [ready(request.video, self.clip)]
            shown = {IMAGE: self.pictures(request.images), VIDEO: clips}
            pieces = cut(self.prompt(request), shown)
            row, begin = place(pieces, self.tokenizer), self.begin()
            # some chat formats open with the BOS of their model, which is wanted once
            rows.append(row if begin and row[: len(begin)] == begin else begin + row)
            media += [piece for piece in pieces if isinstance(piece, Shown)]
        pad = self.tokenizer.pad_token_id
        inputs: dict[str, Any] = left_padded(rows, 0 if pad is None else pad)
        for name in dict.fromkeys(name for piece in media for name in piece.inputs):
            inputs[name] = self.collate(name, [piece.inputs[name] for piece in media if name in piece.inputs])
        where = self.device if device is None else device
        return Encoded(inputs, [size for piece in media for size in piece.sizes]).to(where, self.model.dtype)

    def collate(self, name: str, parts: list[Tensor]) -> Tensor:
        """One input of the model, of all media of a batch."""
        return torch.cat(parts)

    def question(self, ids: Tensor) -> str:
        """The words of a question that ends a prompt, without what the template puts behind it."""
        behind = self.prompt(Request("\0")).rpartition("\0")[2]
        rows = [ids.tolist(), self.tokenizer(behind, add_special_tokens=False).input_ids]
        said, end = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        question: str = said.strip().removesuffix(end.strip())
        return question.strip()

    def decode(self, ids: Tensor) -> list[str]:
        """The answers; `ids` without the prompt."""
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]


def home(module: Any, device: torch.device) -> torch.device:
    """Where accelerate runs a module of a model that it spread or offloaded; else `device`."""
    place = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    if place is None:
        return device
    return torch.device("cuda", place) if isinstance(place, int) else torch.device(place)


def ready(source: Any, prepare: Callable[[Any], Shown]) -> Shown:
    """A picture or clip made ready, unless it is already."""
    return source if isinstance(source, Shown) else prepare(source)

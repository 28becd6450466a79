"""The tiny world in one place: scenes, clips, their pictures, and questions about them.

scene = world.scene(seed)              # plain data, the same for the same seed
picture = world.draw(scene)            # PIL image, long side 96 pixels
for question in world.questions(scene, seed): ...
clip = world.clip(seed); frames = world.draw_clip(clip)
Seeds from world.TEST on have never been trained on: what is scored must come from there.
"""

from tiny.drawn.clips import CLIP_KINDS, Actor, Clip, clip, clip_questions, draw_clip
from tiny.drawn.drawing import draw
from tiny.drawn.questions import KINDS, Question, questions, referring, with_options
from tiny.drawn.scenes import BACKGROUNDS, COLOURS, SHAPES, TEST, Scene, Sign, Thing, scene

__all__ = [
    "BACKGROUNDS",
    "CLIP_KINDS",
    "COLOURS",
    "KINDS",
    "SHAPES",
    "TEST",
    "Actor",
    "Clip",
    "Question",
    "Scene",
    "Sign",
    "Thing",
    "clip",
    "clip_questions",
    "draw",
    "draw_clip",
    "questions",
    "referring",
    "scene",
    "with_options",
]

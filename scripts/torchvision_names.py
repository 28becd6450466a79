"""Put into .venv-vllm by scripts/vllm.sh where torchvision is built for CUDA and torch for the CPU.

Its kernels cannot be loaded there, and without their names it cannot be imported. Nothing of ours calls them.
"""

import importlib.abc
import sys

ARGUMENTS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
held = []


class Names(importlib.abc.MetaPathFinder):
    """Defines the operators just before torchvision is imported, and leaves the import to others."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            from torch import library

            held.append(library.Library("torchvision", "DEF"))
            for operator in ("nms", "qnms"):
                held[0].define(operator + ARGUMENTS)


sys.meta_path.insert(0, Names())

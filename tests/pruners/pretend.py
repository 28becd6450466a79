"""A second device that every machine has: its tensors lie in ordinary memory, and whoever waits for it is noted.

On a GPU the host runs ahead and the device works through a queue. A read of a device value, a shape that depends on
one, and an upload that is not asked to be asynchronous all make the host wait until the queue is empty. Here each of
these is noted with the line of code that did it; the arithmetic is done for real, so results can be compared.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

FAR = torch.device("meta")  # a device that needs no driver; nothing is computed on it
READS = {"_local_scalar_dense", "item", "is_nonzero", "equal", "allclose", "numpy_T"}
SIZED_BY_DATA = {
    "nonzero",
    "nonzero_numpy",
    "argwhere",
    "masked_select",
    "unique",
    "_unique2",
    "unique_dim",
    "bincount",
}
SIZED_BY_DATA |= {"unique_consecutive", "unique_dim_consecutive"}
DECOMPOSED = {"_linalg_eigh", "_linalg_svd", "linalg_eig", "linalg_cholesky_ex", "linalg_lstsq"}  # they look for errors


class Far(Tensor):
    """A tensor on the far device; `here` holds its values."""

    here: Tensor
    watch: Watch

    @staticmethod
    def __new__(cls, here: Tensor) -> Far:
        like = {"strides": here.stride(), "storage_offset": here.storage_offset(), "dtype": here.dtype}
        made = Tensor._make_wrapper_subclass(cls, here.shape, **like, device=FAR, requires_grad=False)
        made.here = here
        return made

    def __repr__(self) -> str:
        return f"Far({self.here!r})"

    def tolist(self) -> list:
        self.watch.wait("download")
        return self.here.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} on a far tensor outside of `watching`")


class Watch(TorchDispatchMode):
    """Runs operations where their tensors are. `waits` holds (what, file:function) of all that made the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[tuple[str, str]] = []

    def wait(self, what: str) -> None:
        frame = sys._getframe(1)
        while any(part in frame.f_code.co_filename for part in ("/torch/", "pretend.py")):
            assert frame.f_back is not None
            frame = frame.f_back
        path = Path(frame.f_code.co_filename)
        self.waits.append((what, f"{path.parent.name}/{path.name}:{frame.f_code.co_name}"))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), func.overloadpacket.__name__
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        far = any(isinstance(tensor, Far) for tensor in given)
        target = kwargs.get("device")
        if far:
            self.check(name, args, given)
        if target is not None:
            lands = torch.device(target) == FAR
            if given and lands != far and (far or not kwargs.get("non_blocking")):
                self.wait("download" if far else "upload")
            if lands:
                kwargs["device"] = torch.device("cpu")
            far = lands
        if name == "copy_" and isinstance(args[0], Far) != isinstance(args[1], Far) and args[1].dim():
            if not (kwargs.get("non_blocking") or (len(args) > 2 and args[2])) or not isinstance(args[0], Far):
                self.wait("download" if isinstance(args[1], Far) else "upload")
            far = isinstance(args[0], Far)
        args, kwargs = tree_map_only(Far, lambda tensor: tensor.here, (args, kwargs))
        out = func(*args, **kwargs)
        if name.endswith("_") and not name.endswith("__") and given and isinstance(given[0], Far):
            return given[0] if out.shape == given[0].shape else Far(out)  # written in place
        return tree_map_only(Tensor, Far, out) if far else out

    def check(self, name: str, args: tuple, given: list[Tensor]) -> None:
        if name in READS or name in SIZED_BY_DATA or name in DECOMPOSED:
            self.wait(name)
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            assert isinstance(args[0], Far), f"{name} of a tensor on the host by one on the device"
            values = args[2] if name != "index" else args[0]
            if isinstance(values, Tensor) and not isinstance(values, Far) and values.dim():
                self.wait("upload of values")
            for index in args[1]:
                if index is not None and index.dtype in (torch.bool, torch.uint8):
                    self.wait("index by a mask")
                elif index is not None and not isinstance(index, Far):
                    self.wait("upload of an index")
        elif name == "repeat_interleave" and any(isinstance(arg, Tensor) for arg in args[1:]):
            self.wait(name)
        elif name not in ("copy_", "set_"):
            near = [tensor for tensor in given if not isinstance(tensor, Far) and tensor.dim()]
            assert not near, f"{name} mixes devices: {[tuple(tensor.shape) for tensor in near]} is on the host"


@contextmanager
def watching() -> Iterator[Watch]:
    """Far tensors can be used inside."""
    watch, tensor = Watch(), torch.tensor

    def uploaded(data, *args, device=None, **options):
        if device is None or torch.device(device) != FAR:
            return tensor(data, *args, device=device, **options)
        watch.wait("upload of numbers")
        data = tree_map_only(Far, lambda scalar: scalar.here.item(), data)
        return Far(tensor(data, *args, device="cpu", **options))

    torch.tensor, Far.watch = uploaded, watch
    try:
        with watch:
            yield watch
    finally:
        torch.tensor = tensor


def moved(module: torch.nn.Module) -> torch.nn.Module:
    """A copy of a module on the far device."""
    module = copy.deepcopy(module)
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            for name, value in held.items():
                if value is not None:
                    held[name] = Far(value.detach())
    return module

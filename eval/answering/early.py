"""What can be seen wrong from the methods' and families' files and a checkpoint's configuration: told before torch is
loaded, in one sentence, and before a folder is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from debias import names
from debias.names import ARMS, RULES, nearest
from eval import benchmarks
from eval.answering.checkpoints import config_of
from eval.answering.plan import this_process
from eval.benchmarks.base import Benchmark
from eval.core import versions
from eval.core.embedded import BARE, EMBEDDED, SMOL
from eval.core.files import writable
from eval.core.settings import MEASURED, TRENDS, UNPRUNED, Settings
from eval.forks import setup
from eval.reading.parquet import check_pyarrow, is_parquet
from pruners import catalogue
from pruners.loading.folder import checked
from pruners.loading.kernels import known_kernel
from pruners.models import declared, kind_of, picture_tokens
from pruners.parts.budget import check_budget

BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "8bit": 1.0, "4bit": 0.5}


def check(settings: Settings) -> None:
    """ValueError for everything that can be known without torch."""
    named = [benchmarks.get(name) for name in settings.benchmarks or benchmarks.NAMES]
    if settings.data is not None and is_parquet(settings.data):
        check_pyarrow(settings.data)
    elif settings.data is not None:
        named = lying_in(settings.data, settings.benchmarks)
    models = models_of(settings)
    check_on(settings, {benchmark.media: models[benchmark.media] for benchmark in named})


def check_on(settings: Settings, models: Mapping[str, str]) -> None:
    """The same for a run on these checkpoints, one for each medium."""
    check_arms(settings)
    check_keep(settings.keep)
    check_readings(settings)
    check_split(settings)
    check_fork(settings)
    if settings.attention != "auto" and settings.backend == "native":
        known_kernel(settings.attention)
    if settings.out is not None:
        writable(settings.out)
    known = {media: model for media, model in models.items() if model not in (SMOL, BARE)}  # put together later
    for media, model in known.items():
        check_model(settings, media, model)
    check_pictures(settings, [kind_of(config_of(model)) for model in known.values()])


def models_of(settings: Settings) -> dict[str, str]:
    """The checkpoint that answers about each medium."""
    if settings.model:
        return {"image": settings.model, "video": settings.video_model or settings.model}
    return {media: str(model) for media, model in EMBEDDED.items()} | (
        {"video": settings.video_model} if settings.video_model else {}
    )


def check_arms(settings: Settings) -> None:
    """ValueError for an arm that the method does not have, or that the authors' release cannot compute."""
    odd = [arm for arm in settings.arms if arm in ARMS and arm not in catalogue.arms(settings.method)]
    if odd:
        raise ValueError(
            f"--arms {odd[0]}: {catalogue.title(settings.method)} reads no attention of the decoder, so there is no "
            "trend to divide by; it has the arms none and padding"
        )
    if settings.as_released:
        for arm in settings.arms or ("none",):
            names.check_release(settings.method, "none" if arm == UNPRUNED else arm)
        names.check_unchanged(settings.stages, settings.trend)


def check_keep(keep: Any, model: str = "", tokens: int | None = None) -> None:
    """ValueError for a budget that no model can have; or that this model cannot, where a picture has so many tokens."""
    if keep is not None:
        check_budget(keep)
    if keep == 0:
        raise ValueError("--keep 0 leaves nothing of a picture; give a count of at least 1, or a share such as 0.25")
    if isinstance(keep, int) and tokens is not None and keep > tokens:
        raise ValueError(f"--keep {keep}: {model} sees a picture as {tokens} tokens; give at most so many, or a share")


def check_readings(settings: Settings) -> None:
    """ValueError for another reading of attention, or of padding, where nobody can read it so."""
    own = "which only our own methods can do"
    rule, colon, _ = settings.padding.partition(":")
    if rule not in ("auto", *RULES) or (colon and rule != "sink"):
        raise ValueError(
            f"--padding {settings.padding}: expected auto, {', '.join(RULES)}, or sink:THRESHOLD{nearest(rule, RULES)}"
        )
    if rule != "auto" and settings.as_released:
        raise ValueError("--padding: the authors' release tells padding by its own rules; leave it out")
    if rule == "sink" and settings.backend == "fork":
        raise ValueError(f"--padding sink reads hidden states, {own}")
    check_trend(settings.trend)
    if settings.trend in MEASURED and (settings.backend == "fork" or settings.as_released):
        raise ValueError(f"--trend {settings.trend} measures attention in another way, {own}")
    if settings.trend == "unrotated" and settings.fields.get("mode") == "mask":
        raise ValueError(
            "--mode mask ranks again at every step, from keys that are rotated already: scores before the rotary "
            "embedding need mode='gather'"
        )


def check_trend(trend: str) -> None:
    """ValueError for a trend that is neither a known word nor a file."""
    if trend not in TRENDS and not Path(trend).is_file():
        raise ValueError(
            f"--trend {trend}: no such file{nearest(trend, TRENDS)}; expected {', '.join(TRENDS)}, "
            "or a trends file that `fit` wrote"
        )


def check_split(settings: Settings) -> None:
    """ValueError for a model in several processes that cannot be held so."""
    flag = "--zero" if settings.zero else "--tensor-parallel"
    several = settings.zero or settings.tensor_parallel
    if several and this_process().size < 2:
        raise ValueError(
            "--tensor-parallel and --zero split the model over the processes of one launch, and there is only this "
            "one. Start it as: torchrun --nproc-per-node 2 -m eval run --tensor-parallel ..."
        )
    if settings.dtype.endswith("bit") and (settings.backend == "fork" or several):
        raise ValueError(f"--dtype {settings.dtype} belongs to the native backend in one process a model")
    if settings.zero and settings.tensor_parallel:
        raise ValueError("--zero and --tensor-parallel are two ways to hold one model together; choose either")
    if several and settings.device == "auto":
        raise ValueError(f"--device auto spreads a model in one process, {flag} over several; choose either")


def check_fork(settings: Settings) -> None:
    """ValueError for what the authors' code cannot do."""
    reasons = {
        "--zero": (settings.zero, "runs on one device"),
        "--tensor-parallel": (settings.tensor_parallel, "runs on one device"),
        "--share-prefix": (settings.share_prefix, "runs every arm whole"),
        f"--fill {settings.fill}": (settings.fill != "mean", "pads pictures itself"),
    }
    for flag, (asked, why) in reasons.items():
        if asked and settings.backend == "fork":
            raise ValueError(f"{flag} belongs to the native backend; the authors' code {why}")


def check_pictures(settings: Settings, kinds: Sequence[str]) -> None:
    """ValueError for a filling of borders that a family does not add, or a limit on tiles that it does not cut."""
    for asked, what, can in (
        (settings.fill != "mean", f"--fill {settings.fill} belongs to families that pad pictures to a square", "fills"),
        (settings.max_patches, "--max-patches belongs to families that cut a picture into so many tiles", "cuts_tiles"),
    ):
        able = [name for name, said in declared(can).items() if said]
        if asked and not set(kinds) <= set(able):
            raise ValueError(f"{what}: {', '.join(able)}")


def check_model(settings: Settings, media: str, model: str) -> None:
    """ValueError for a checkpoint that is not there or not whole, or that does not have what is asked of it."""
    config, depth, name = config_of(model), depth_of(model), Path(model).name
    films = declared("trend_media").get(kind_of(config)) == "video"
    several = tuple(settings.fields.get("layers") or ())
    if any(after <= before for before, after in pairwise(several)):
        raise ValueError(f"--layers {' '.join(map(str, several))}: layers must ascend")
    for layer in (settings.fields.get("layer"), *several):
        if layer is not None and not 0 <= layer < depth:
            raise ValueError(f"cannot cut before layer {layer}: {name} has layers 0 to {depth - 1}")
    # The budget of a clip is not that of a picture.
    if media == "image" and not films and not catalogue.declared(settings.method, "of_clips"):
        check_keep(settings.keep, name, picture_tokens(config))
    if settings.backend == "fork":  # which has layouts of its own
        if not films or setup.films(settings.method):
            setup.environment(setup.code_of(settings.method, films))
        return
    if Path(model).is_dir():
        checked(Path(model))
    if not (settings.zero or settings.tensor_parallel):
        check_memory(model, settings.dtype, surely(settings.device))


def surely(device: str | None) -> str | None:
    """The device that --device comes to, where that is known without torch."""
    return "cpu" if device is None and versions.of("torch").endswith("+cpu") else device


def check_memory(model: str, dtype: str, device: str | None) -> None:
    """ValueError for a checkpoint whose weights are more than the device has free; None and auto: not known yet."""
    if device not in (None, "auto"):
        needed = weights(model, "float32" if (dtype, device) == ("auto", "cpu") else dtype)
        memory(model, needed, device, "use a smaller model, --dtype bfloat16 or another device")


def memory(what: str, needed: float, device: str, instead: str) -> None:
    """ValueError where so many bytes of weights are more than the device has free."""
    if device.startswith("cuda"):
        import torch  # not at the top: a run on a CPU is refused without

        free = float(torch.cuda.mem_get_info(device)[0])
    else:
        free = available()
    if needed > free:
        sizes = f"about {needed / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are free on {device}"
        raise ValueError(f"{what} needs {sizes}: {instead}")


def weights(model: str, dtype: str) -> float:
    """Bytes of a checkpoint's weights once they are loaded; 0 where its files are not here."""
    folder = Path(model)
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    config = config_of(model) if stored else {}
    said = config.get("dtype") or config.get("torch_dtype") or (config.get("text_config") or {}).get("dtype")
    own = BYTES.get(str(said), 4.0)
    return stored * BYTES.get(dtype, own) / own


def available() -> float:
    """Bytes of main memory that are free, or can be freed; infinity where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return float(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return float("inf")


def depth_of(model: str) -> int:
    """How many layers a checkpoint's decoder has."""
    config = config_of(model)
    return int((config.get("text_config") or config).get("num_hidden_layers", 32))


def layers_named(text: str, depth: int) -> list[int]:
    """The layers that --layers names, of a decoder with `depth` layers."""
    words = [word.strip() for word in text.split(",")]
    if wrong := [word for word in words if not (word.isdecimal() and int(word) < depth)]:
        raise ValueError(f"--layers {text}: expected layers 0 to {depth - 1} with commas, found {wrong[0]!r}")
    return [int(word) for word in words]


def lying_in(data: Path, wanted: Sequence[str]) -> list[Benchmark]:
    """The benchmarks that are wanted, or that a data root holds; one model's after the other's."""
    if not data.is_dir():
        raise ValueError(f"--data {data}: no such folder; expected LLaVA's playground/data/eval, or a folder like it")
    chosen = [benchmarks.get(name) for name in wanted or benchmarks.NAMES]
    for benchmark in chosen if wanted else ():
        benchmark.home(data)
    if not wanted:
        chosen = [benchmark for benchmark in chosen if benchmark.lies_in(data)]
    if not chosen:
        raise ValueError(f"--data {data} holds none of the benchmarks; expected folders such as {data}/pope")
    return sorted(chosen, key=lambda benchmark: benchmark.media)

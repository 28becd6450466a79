"""What must hold for every method on every family, whatever kernel and cache."""

import copy

import pytest
import torch
import transformers

from debias import Debias, Padding, Trend

STEPS = 3
BEAMS_COME_FIRST = tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 19)


def generate(adapter, encoded, cached="dynamic", **options):
    settings = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False, **options}
    config = adapter.model.config  # a random model may answer with a picture's token, which no recomputation could read
    pictures = [getattr(config, name, None) for name in ("image_token_id", "video_token_id")]
    settings["suppress_tokens"] = [token for token in pictures if token is not None]
    if cached == "static":
        settings["cache_implementation"] = "static"
    return adapter.model.generate(
        **encoded.inputs, **settings, return_dict_in_generate=True, output_logits=True, disable_compile=True
    )


def prune(pruner, adapter, encoded):
    """Undebiased. Sizes tell families that cut pictures into tiles how the tiles lie; others do not read them."""
    return pruner(adapter, Debias(), encoded.sizes)


def replayed(pruner, trace):
    """The same method, made to score and keep what it did in a run; what it merges then follows."""
    images = [image.choices[len(image.choices) - len(pruner.cuts(trace.layers)) :] for image in trace.images]

    def mine(view):
        """Which tokens are this view's, where a picture has several."""
        return slice(None) if view.tokens.here is None else view.tokens.here

    class Replayed(type(pruner)):
        def score(self, view):
            return images[view.image][view.stage].scores[0][mine(view)]

        def select(self, score, view):
            choice = images[view.image][view.stage]
            chosen = torch.zeros(len(choice.scores[0]), dtype=torch.bool)
            chosen[choice.kept] = True
            return chosen[mine(view)].nonzero()[:, 0]

    copied = copy.copy(pruner)
    object.__setattr__(copied, "__class__", Replayed)
    return copied


def test_keeping_everything_is_the_plain_model(method, family, kernel, cached, get, make, requests):
    adapter = get(family, kernel)
    encoded = adapter.encode(requests[:1])
    plain = generate(adapter, encoded, cached)
    with prune(make(method, keep=1.0), adapter, encoded) as trace:
        pruned = generate(adapter, encoded, cached)
    assert trace.images
    for kept in trace.kept:
        assert kept[0].tolist() == list(range(len(trace.images[0].tokens)))
    assert torch.equal(pruned.sequences, plain.sequences)
    for ours, theirs in zip(pruned.logits, plain.logits, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_cached_decoding_is_recomputation(method, family, kernel, cached, get, make, requests):
    if make(method).shrink_cache:
        pytest.skip("it also cuts the caches below its cut, so that later tokens see less than a recomputation")
    adapter, pruner = get(family, kernel), make(method)
    encoded = adapter.encode(requests[:1])
    with prune(pruner, adapter, encoded) as trace:
        out = generate(adapter, encoded, cached)
    assert len(trace.kept[-1][0]) < len(trace.images[0].tokens)
    again = replayed(pruner, trace)
    inputs = dict(encoded.inputs)
    length = inputs["input_ids"].shape[1]
    for step, logits in enumerate(out.logits):
        inputs["input_ids"] = out.sequences[:, : length + step]
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if "mm_token_type_ids" in inputs:
            kinds = encoded.inputs["mm_token_type_ids"]
            inputs["mm_token_type_ids"] = torch.cat([kinds, kinds.new_zeros(1, step)], 1)
        with prune(again, adapter, encoded):
            fresh = adapter.model(**inputs, use_cache=False).logits[:, -1]
        torch.testing.assert_close(logits, fresh, rtol=0, atol=1e-4)


def test_a_left_padded_batch_is_its_singles(method, family, get, make, requests):
    adapter = get(family)
    encoded = adapter.encode(requests)
    with prune(make(method), adapter, encoded) as trace:
        together = generate(adapter, encoded)
        kept = [[index.tolist() for index in stage] for stage in trace.kept]
    for row, request in enumerate(requests):
        single = adapter.encode([request])
        with prune(make(method), adapter, single) as trace:
            alone = generate(adapter, single)
        for stage, images in enumerate(trace.kept):
            assert kept[stage][row] == images[0].tolist()
        assert together.sequences[row, -STEPS:].tolist() == alone.sequences[0, -STEPS:].tolist()
        for ours, theirs in zip(together.logits, alone.logits, strict=True):
            torch.testing.assert_close(ours[row], theirs[0], rtol=0, atol=1e-3)


def test_beams_keep_what_one_keeps(method, family, get, make, requests):
    adapter = get(family)
    if BEAMS_COME_FIRST and adapter.cuts_tiles:
        pytest.skip("this transformers mixes up tiles in beam search, pruned or not")
    encoded = adapter.encode(requests[:2])
    with prune(make(method), adapter, encoded) as trace:
        generate(adapter, encoded)
        kept = trace.kept
    try:
        with prune(make(method), adapter, encoded) as trace:
            out = generate(adapter, encoded, num_beams=3)
    except ValueError as error:
        if not BEAMS_COME_FIRST or "the vision tower did not run" not in str(error):
            raise
        pytest.skip(f"transformers {transformers.__version__} makes beams before the tower runs, which is refused")
    assert len(out.sequences) == 2
    for alone, beams in zip(kept, trace.kept, strict=True):
        wanted = beams if len(beams) == 2 else beams[::3]
        assert [index.tolist() for index in wanted] == [index.tolist() for index in alone]


def test_padding_is_never_kept_for_a_valid_token(method, get, home, make, requests):
    """At every cut, recycling and merging included, on pictures that are wide and high."""
    adapter = get(home(method))
    debias = Debias(Trend.exponential(0.02), Padding(), stages="all")
    encoded = adapter.encode(requests[:2])
    for keep in (0.2, 0.5, 0.9):
        with make(method, keep=keep)(adapter, debias, encoded.sizes) as trace:
            generate(adapter, encoded)
        for image, size in zip(trace.images, encoded.sizes, strict=True):
            valid = debias.padding.valid(size, (6, 6))
            there = torch.arange(36)
            for stage in range(trace.stages):
                kept = image.raster(stage)
                left_out = there[~torch.isin(there, torch.cat([kept, image.raster(stage, own=False)]))]
                if (~valid[kept]).any():
                    assert not valid[left_out].any(), (keep, stage, kept, left_out)
                there = torch.cat([kept, image.raster(stage, own=False)])
            assert trace.counts[image.tokens.image]["padding"] == [
                int((~valid[image.raster(s)]).sum()) for s in range(trace.stages)
            ]


class Unreadable(list):
    def __getitem__(self, at):
        raise AssertionError("the size of an image was read")

    __iter__ = __len__ = __bool__ = lambda self: self[0]


@pytest.mark.parametrize("debias", [Debias(), Debias(Trend.exponential(0.02))], ids=["none", "trend"])
def test_sizes_are_read_for_padding_alone(method, debias, get, home, make, requests):
    adapter = get(home(method))
    with make(method)(adapter, debias, Unreadable()):
        generate(adapter, adapter.encode(requests[:1]))


def test_padding_needs_sizes(method, get, home, make):
    with (
        pytest.raises(ValueError, match="needs the size of every image"),
        make(method)(get(home(method)), Debias(None, Padding())),
    ):
        pass


def test_kept_tokens_are_sorted_and_as_many_as_asked_for(method, get, home, make, requests):
    adapter = get(home(method))
    encoded = adapter.encode(requests)
    with make(method)(adapter, Debias(Trend.exponential(0.02))) as trace:
        generate(adapter, encoded)
    pruner = make(method)
    for image in trace.images:
        choices = image.choices[len(image.choices) - len(pruner.cuts(8)) :]
        for choice, count in zip(choices, pruner.counts(8, 36), strict=True):
            kept = choice.kept
            assert torch.equal(kept, kept.unique())
            assert len(choice.place) == len(kept) if choice.merged is None else len(choice.place) >= len(kept)
            if method not in ("visionzip", "sparsevlm"):  # of these the budget holds recycled tokens too
                assert len(kept) == count
            if method in ("fastv", "pyramiddrop", "sparsevlm", "himap", "random", "visionzip", "illava"):
                assert int(choice.scores[1].argmax()) in kept.tolist()


def test_no_hook_is_left(method, get, home, make, requests):
    adapter = get(home(method))
    encoded = adapter.encode(requests[:1])
    generate(adapter, encoded)  # transformers installs hooks of its own when it first runs
    before = hooks(adapter.model)
    with make(method)(adapter):
        generate(adapter, encoded)
        assert hooks(adapter.model) != before
    assert hooks(adapter.model) == before
    handle = adapter.decoder.layers[5].register_forward_pre_hook(failing)
    try:
        with pytest.raises(RuntimeError, match="on purpose"), make(method)(adapter):
            generate(adapter, encoded)
    finally:
        handle.remove()
    assert hooks(adapter.model) == before


def failing(*_):
    raise RuntimeError("on purpose")


def hooks(model):
    """How many hooks of each kind every module has, and all that was ever set on it."""
    found = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            found[name, key] = len(value) if "hook" in key and hasattr(value, "__len__") else callable(value)
    return found

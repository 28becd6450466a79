"""The interface that patched code calls: nothing without a context, exactly one context's debias with it."""

from __future__ import annotations

import asyncio
import threading

import pytest
import torch

import debias as package
from debias import Context, Debias, Padding, Span, Trend, kept, merge_weights, rescore, using

TREND = Trend.exponential(0.004)
BOTH = Debias(TREND, Padding())
WIDE = Span(35, (24, 24), size=(640, 360))


def scores(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_without_a_context_everything_is_itself():
    score, mask, weights = scores(576), scores(576) > 0.5, scores(5)
    assert rescore(score, method="fastv") is score
    assert rescore(score, method="no such method", stage=7, image_start=36, sample=3, role="x") is score
    assert kept(mask, method="fastv") is mask
    assert merge_weights(weights, torch.arange(5), method="illava") is weights


def test_within_a_context_the_debias_of_the_sample():
    other = Span(12, (24, 24), size=(300, 640))
    score = scores(576)
    with using(BOTH, [WIDE, other]) as context:
        assert torch.equal(rescore(score, method="fastv"), BOTH(score, WIDE))
        assert torch.equal(rescore(score, method="fastv", image_start=35), BOTH(score, WIDE))
        assert torch.equal(rescore(score[None], method="fastv", sample=1), BOTH(score, other)[None])
        batch = scores(2, 3, 576)
        assert torch.equal(rescore(batch, method="fastv"), BOTH(batch, WIDE))
        half = rescore(score.half(), method="fastv")
        assert half.dtype == torch.float16
        assert context.calls == {"fastv": 5}
        assert context.records is None
    assert rescore(score, method="fastv") is score


def test_an_arm_named_by_a_word_is_the_released_setting():
    score = scores(576)
    with using("both", [WIDE], benchmark="pope"):
        assert torch.equal(rescore(score, method="sparsevlms"), Debias.paper("sparsevlm", "pope")(score, WIDE))
        assert torch.equal(rescore(score, method="himap"), Debias.paper("himap", "pope")(score, WIDE))
        assert rescore(score, method="sparsevlm", role="recycle") is score  # as the release leaves it
    with using("paper"):  # needs no spans
        assert rescore(score, method="fastv") is score
    with using("before", [WIDE]):
        assert torch.equal(rescore(score, method="pdrop"), Debias.paper("pyramiddrop", arm="padding")(score, WIDE))
    with pytest.raises(ValueError, match="unknown arm 'all'"), using("all"):
        pass


@pytest.mark.parametrize("start", [33, 34, 36, 38])
def test_a_misplaced_image_is_put_right(start):
    """Upstream counts the image from 36 where it starts at 35: slot j is patch j + 1, the last slot a word."""
    score = scores(576)
    shift = start - WIDE.start
    with using(BOTH, [WIDE]):
        out = rescore(score, method="fastv", image_start=start)
    weight, valid = TREND.weight(None, 576), Padding().valid(WIDE)
    for slot in range(576):
        patch = slot + shift
        if not 0 <= patch < 576:
            assert out[slot] == score[slot]  # a word is neither divided nor silenced
        elif valid[patch]:
            assert out[slot] == score[slot] * weight[patch]
        else:
            assert out[slot] < 0
    silenced = out[out < 0]
    assert (silenced.diff() < 0).all()


def test_later_stages_know_original_positions():
    every = Debias(TREND, Padding(), stages="all")
    first, second = torch.arange(100, 400, 2), torch.tensor([4, 90, 149])
    with using(every, [WIDE]) as context:
        rescore(scores(576), method="pyramiddrop", stage=0)
        assert kept(first, method="pyramiddrop", stage=0) is first
        out = rescore(scores(150), method="pyramiddrop", stage=1)
        assert torch.equal(out, every(scores(150), WIDE.at(first)))
        kept(second[None], method="pyramiddrop", stage=1)
        out = rescore(scores(3), method="pyramiddrop", stage=2)
        assert torch.equal(out, every(scores(3), WIDE.at(first[second])))
        assert context.after(0, 0).tolist() == first.tolist()
        assert context.after(0, 1).tolist() == first[second].tolist()
        # A new prompt, or a decoding step that ranks again, starts from the whole image.
        assert torch.equal(rescore(scores(576), method="pyramiddrop", stage=0), every(scores(576), WIDE))
        kept(second, method="pyramiddrop", stage=0)
        assert torch.equal(rescore(scores(3), method="pyramiddrop", stage=1), every(scores(3), WIDE.at(second)))


def test_masks_merged_tokens_and_a_second_round():
    """SparseVLM: a mask over the tokens; clusters of the dropped ones stand behind the kept ones and are no patch."""
    every = Debias(TREND, Padding(), stages="all")
    dice = torch.Generator().manual_seed(4)
    mask = torch.rand(1, 576, generator=dice) > 0.5
    left = mask[0].nonzero().flatten()
    with using(every, [WIDE]) as context:
        rescore(scores(1, 576), method="sparsevlm", stage=0)
        kept(mask, method="sparsevlm", stage=0)
        count = len(left) + 9
        out = rescore(scores(1, count), method="sparsevlm", stage=1)
        index = torch.cat([left, torch.full((9,), -1)])
        assert torch.equal(out, every(scores(1, count), WIDE.at(index)))
        assert torch.equal(out[0, -9:], scores(1, count)[0, -9:])
        again = torch.rand(1, count, generator=dice) > 0.5
        again[0, -9:] = torch.tensor([True, False, True, True, False, False, True, True, True])
        kept(again, method="sparsevlm", stage=1)
        expected = index[again[0]]
        assert context.after(0, 1).tolist() == expected.tolist()
        more = len(expected) + 4
        out = rescore(scores(more), method="sparsevlm", stage=2)
        assert torch.equal(out, every(scores(more), WIDE.at(torch.cat([expected, torch.full((4,), -1)]))))


def test_kept_counts_from_where_the_calling_code_counts():
    """With the image misplaced, what was kept is still told by original patches."""
    with using(Debias(TREND, stages="all"), [WIDE]) as context:
        rescore(scores(576), method="fastv", image_start=36)
        kept([torch.tensor(0), torch.tensor(574), torch.tensor(575)], method="fastv")
        assert context.after(0, 0).tolist() == [1, 575, -1]


def test_stages_may_be_skipped_and_start_in_the_vision_tower():
    every = Debias(TREND, Padding(), stages="all")
    first = torch.arange(0, 576, 3)
    with using(every, [WIDE]):
        kept(first, method="illava", stage=-2)
        score = scores(192)
        assert torch.equal(rescore(score, method="illava", stage=0), every(score, WIDE.at(first)))
        assert torch.equal(
            rescore(scores(576), method="illava", stage=-2, role="vision"), Debias(padding=Padding())(scores(576), WIDE)
        )


def test_a_stage_that_is_left_alone_looks_up_nothing():
    """Tracing a mask back to patches reads it from the device; nobody does so unless a later cut is debiased."""
    mask = torch.empty(576, dtype=torch.bool, device="meta")  # what is read here cannot be indexed by
    score = scores(300)
    with using(BOTH, [WIDE]):
        rescore(scores(576), method="sparsevlm")
        kept(mask, method="sparsevlm")
        assert rescore(score, method="sparsevlm", stage=1) is score
        assert merge_weights(score, torch.arange(300), method="sparsevlm", stage=1) is score


def test_places_are_told_on_the_device_that_asks():
    meta = torch.device("meta")
    with using(BOTH, [WIDE]) as context:
        assert context.before(0, 0, 576, meta) is None  # nothing was scored yet: the whole image, in order
        rescore(scores(576), method="fastv", image_start=36)
        assert context.before(0, 0, 576, meta).device == meta
        assert context.before(0, 0, 576).tolist() == [*range(1, 576), -1]
    with using(BOTH, [WIDE]) as context:
        kept(torch.empty(3, dtype=torch.long, device=meta), method="fastv")
        assert context.after(0, 0).device == meta


def test_samples_do_not_mix():
    every = Debias(TREND, stages="all")
    with using(every, [WIDE, [WIDE]]) as context:
        for sample, first in enumerate((torch.arange(10), torch.arange(20, 30))):
            rescore(scores(576), method="fastv", sample=sample)
            kept(first, method="fastv", sample=sample)
        assert torch.equal(
            rescore(scores(10), method="fastv", stage=1, sample=1), every(scores(10), WIDE.at(torch.arange(20, 30)))
        )
        assert context.after(0, 0).tolist() == list(range(10))


def test_merge_weights_follow_the_tokens_that_are_there():
    with using(BOTH, [WIDE]):
        rescore(scores(576), method="illava")
        weights = torch.tensor([2.0, 1.0])
        assert merge_weights(weights, torch.tensor([0, 300]), method="illava").tolist() == [0, 1]
    with using("none"):
        assert merge_weights(weights, torch.tensor([0, 300]), method="illava") is weights


def test_records_hold_before_and_after():
    score = scores(576)
    with using(BOTH, [WIDE], record=True) as context:
        out = rescore(score, method="fastv", role="weigh")
        score += 1  # what upstream does to its tensor later is not recorded
    (entry,) = context.records
    assert (entry["method"], entry["stage"], entry["sample"], entry["role"]) == ("fastv", 0, 0, "weigh")
    assert torch.equal(entry["before"], scores(576))
    assert torch.equal(entry["after"], out)
    assert Context(BOTH).records is None


def test_a_misspelt_method_has_no_released_trend():
    with using("both", [WIDE]), pytest.raises(ValueError, match=r"no trend for 'fastvee' \(did you mean fastv\?\)"):
        rescore(scores(576), method="fastvee")


def test_misuse_is_named():
    with using(Debias(TREND, Padding(), stages="all"), [WIDE, [WIDE, WIDE]]):
        with pytest.raises(ValueError, match="a method must be a name, such as 'fastv'; got ''"):
            rescore(scores(576), method="")
        with pytest.raises(ValueError, match="a method must be a name, such as 'fastv'; got None"):
            kept(torch.arange(3), method=None)
        with pytest.raises(ValueError, match=r"sample 2 has no span; using\(...\) was given 2"):
            rescore(scores(576), method="fastv", sample=2)
        with pytest.raises(ValueError, match="sample 1 has 2 images"):
            rescore(scores(576), method="fastv", sample=1)
        with pytest.raises(ValueError, match=r"score has 575 entries .* span has 576"):
            rescore(scores(575), method="fastv")
        with pytest.raises(ValueError, match=r"one sample at a time; got shape \(2, 30\)"):
            kept(torch.zeros(2, 30, dtype=torch.long), method="fastv")
        kept(torch.arange(30), method="fastv")
        with pytest.raises(ValueError, match="stage 1 scores 20 tokens but 30 were kept before it"):
            rescore(scores(20), method="fastv", stage=1)
    with using(BOTH), pytest.raises(ValueError, match="given no spans"):
        rescore(scores(576), method="fastv")


def test_contexts_nest_and_end_also_with_an_error():
    score = scores(576)
    with using(Debias(TREND), [WIDE]):
        with using(Debias(padding=Padding()), [WIDE]):
            inner = rescore(score, method="fastv")
        assert torch.equal(inner, Debias(padding=Padding())(score, WIDE))
        assert torch.equal(rescore(score, method="fastv"), Debias(TREND)(score, WIDE))
        with pytest.raises(RuntimeError), using("none"):
            raise RuntimeError
        assert torch.equal(rescore(score, method="fastv"), Debias(TREND)(score, WIDE))
    assert rescore(score, method="fastv") is score


def test_threads_have_their_own_context():
    rates = [0.001 * n for n in range(1, 9)]
    wrong, barrier = [], threading.Barrier(len(rates))

    def work(rate: float) -> None:
        mine, score = Debias(Trend.exponential(rate), Padding()), scores(576, seed=int(rate * 1000))
        expected = mine(score, WIDE)
        barrier.wait()
        if rescore(score, method="fastv") is not score:  # the opener's context is not ours
            wrong.append(("leaked", rate))
        with using(mine, [WIDE]):
            for _ in range(50):
                if not torch.equal(rescore(score, method="fastv"), expected):
                    wrong.append(("mixed", rate))

    with using(BOTH, [WIDE]):
        threads = [threading.Thread(target=work, args=(rate,)) for rate in rates]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_tasks_have_their_own_context():
    score = scores(576)

    async def task(rate: float) -> bool:
        with using(Debias(Trend.exponential(rate)), [WIDE]):
            good = True
            for _ in range(5):
                await asyncio.sleep(0)
                good &= torch.equal(rescore(score, method="fastv"), Debias(Trend.exponential(rate))(score, WIDE))
            return good

    async def main() -> list[bool]:
        results = await asyncio.gather(*(task(0.001 * n) for n in range(1, 9)))
        assert rescore(score, method="fastv") is score
        return results

    assert all(asyncio.run(main()))


def test_exported_names():
    assert all(hasattr(package, name) for name in package.__all__)
    assert len(package.__all__) == len(set(package.__all__))


def test_as_released_the_image_begins_where_the_calling_code_believes():
    released, score = Debias.paper("fastv", as_released=True), scores(576)
    with using(released, [WIDE]):
        assert torch.equal(rescore(score, method="fastv", image_start=36), released(score, WIDE))
        assert torch.equal(rescore(score, method="fastv"), released(score, WIDE))


def test_a_batch_of_scores_is_as_wide_as_its_last_axis():
    with using(Debias(TREND, stages="all"), [WIDE]) as context:
        rescore(scores(2, 3, 576), method="fastv")
        kept(torch.tensor([5, 300]), method="fastv")
        assert context.after(0, 0).tolist() == [5, 300]

"""The small parts that methods are made of, each against its definition in plain Python. No model is loaded."""

from __future__ import annotations

import math
import os
import random
import socket
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from pruners import cut
from pruners.arms import arms_of
from pruners.cut import Cut
from pruners.engine.choose import choose
from pruners.loading import files
from pruners.method import Method
from pruners.parts import budget, greedy, regions, schedule
from pruners.parts.patches import Patches, joined
from pruners.parts.scores import Scores, entropy
from pruners.parts.suppression import Suppression


def refused(call, *words, **more):
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the caller looks at the words)
        call(*words, **more)
    return str(error.value)


def test_budgets():
    for keep in (0, 1, 576, 10**6, 0.0, 0.5, 1.0):
        budget.check_budget(keep)
        Cut(2, keep)
    for keep in (-1, -0.1, 1.01, 2.0, True, False, "a", None):
        said = refused(budget.check_budget, keep)
        assert said.startswith(f"keep={keep!r}: give a count")
        assert refused(Cut, 2, keep) == said
    assert [budget.is_whole(keep) for keep in (1, 1.0, 0.5, 0, 576)] == [False, True, False, False, False]
    asked = [(5, 3), (2, 3), (0, 3), (0.29, 100), (0.5, 5), (1.0, 7), (0.0, 7), (0.999, 1000), (0.1, 9)]
    assert [budget.tokens_kept(*pair) for pair in asked] == [3, 2, 0, 29, 2, 7, 0, 999, 0]
    assert budget.REFERENCE_TOKENS == 576


def test_layers_of_other_depths():
    for layers in (1, 2, 3, 7, 16, 24, 28, 32, 40, 80):
        for reference in (24, 32):
            for layer in range(reference + 1):
                nearest = max(1, math.floor(layer * layers / reference + 0.5))
                assert schedule.at_depth(layer, layers, reference) == nearest
    assert schedule.at_depth(3, 16) == schedule.at_depth(3, 16, 32) == 2
    assert schedule.depths((1, 2, 3), 8) == (1, 2, 3)  # each would be layer 1
    assert schedule.depths((1, 2, 3), 3) == (1, 2)
    assert schedule.depths((0, 12, 12), 24, 24) == (1, 12, 13)
    assert schedule.depths((), 8) == ()


def test_counts_for_each_cut():
    for keeps in (None, [3], [3, 3, 0], (9, 1)):
        schedule.check_keeps(keeps, len(keeps or ()))
    for keeps, cuts in (([3, 2], 3), ([3, 2], 1), ([1, 2], 2), ([3, -1], 2)):
        assert refused(schedule.check_keeps, keeps, cuts).startswith(f"keeps={keeps}: give {cuts} counts")


def test_budgets_lie_on_straight_lines_between_the_published_ones():
    rng = random.Random(1)
    for _ in range(300):
        names = sorted(rng.sample(range(1, 576), 3))
        published = {name: sorted((rng.randint(0, 576) for _ in range(2)), reverse=True) for name in names}
        tokens = rng.choice([1, 7, 144, 576, 2056])
        keep = rng.choice([rng.random(), rng.randint(0, tokens + 3), names[0] / 576, 0.0, 1.0])
        share = min(keep if isinstance(keep, float) else keep / tokens, 1.0) * 576
        knots = [(0, (0, 0)), *sorted(published.items()), (576, (576, 576))]
        (low, first), (high, last) = next(pair for pair in pairwise(knots) if pair[1][0] >= share)
        for stage, got in enumerate(schedule.budgets(keep, tokens, published)):
            exact = first[stage] + (last[stage] - first[stage]) * (share - low) / (high - low)
            exact *= tokens / 576
            assert got == max(1, math.floor(exact + 0.5)) or abs(exact % 1 - 0.5) < 1e-6


@dataclass(frozen=True)
class Twice(Method):
    def cuts(self, layers):
        return [Cut(2, self.keep), Cut(layers // 2, 0.1)]


def test_what_a_method_keeps_and_costs():
    method = Twice(keep=60)
    assert method.counts(8, 100) == [60, 10]
    assert method.mean_count(8, 100) == (2 * 100 + 2 * 60 + 4 * 10) / 8
    assert method.own_count(8, 100) == 10.0
    assert isinstance(method.own_count(8, 100), float)
    costs = {keep: Twice(keep=keep).mean_count(8, 100) for keep in range(101)}
    for mean in (40, 41.3, 55, 90):
        best = min(costs, key=lambda keep: (abs(costs[keep] - mean), keep))
        assert Twice.matched(mean, tokens=100, layers=8).keep == best
    with pytest.raises(AttributeError):
        method.keep = 3
    assert Method().keep == 128
    assert type("Masks", (Method,), {"mode": "mask"})().mode == "mask"
    assert refused(Method, keep=-1).startswith("keep=-1")
    view = type("Some", (), {"top": staticmethod(cut.top), "count": 2})
    assert method.select(torch.tensor([1.0, 3.0, 2.0]), view).tolist() == [1, 2]
    assert refused(type("Wrong", (Method,), {"mode": "any"})).startswith("unknown mode 'any'")
    assert (Method.positions, Method.mode, Method.shrink_cache, Method.reads, Method.views) == (
        "original", "gather", False, "decoder", "each")  # fmt: skip
    for call, words in ((method.score, "does not score tokens"), (method.vision_merge, "define vision_merge")):
        with pytest.raises(TypeError, match=f"^Twice .*{words}"):
            call(None)
    with pytest.raises(TypeError, match="Method does not say where it cuts"):
        Method().cuts(4)
    assert (method.check(None), method.start(None), method.merge(None, None)) == (None, None, None)
    assert method.glances(24) == method.vision_layers(24) == ()


def test_a_method_without_any_budget_is_named():
    class Never(Twice):
        def __post_init__(self):
            raise ValueError

    class Large(Twice):
        def __post_init__(self):
            if self.keep < 20:
                raise ValueError

    assert Large.matched(40, tokens=100, layers=8).keep == Twice.matched(40, tokens=100, layers=8).keep
    assert refused(Never.matched, 3, tokens=5, layers=7) == "Never has no budget for 5 tokens in 7 layers"


def test_what_a_method_needs_of_a_family():
    class Views:
        opens = "views"

    class Tokens:
        opens = "tokens"

    class Closed:
        opens = "nothing"

    plain = type("Plain", (Method,), {})
    reader = type("Reader", (Method,), {"reads": "vision and decoder"})
    cutter = type("Cutter", (Method,), {"vision_layers": lambda self, layers: (5,) if layers > 5 else ()})
    merger = type("Merger", (Method,), {"merge": lambda self, view, kept: None})
    both = type("Both", (cutter,), {"reads": "vision"})
    families = (Tokens, Views, Closed)
    served = {kind.__name__: [kind.serves(family) for family in families] for kind in (plain, reader, cutter, both)}
    assert served == {
        "Plain": [True, True, True], "Reader": [True, True, False], "Cutter": [True, False, False],
        "Both": [True, False, False],
    }  # fmt: skip
    assert [kind.merges() for kind in (plain, reader, cutter, merger)] == [False, False, True, True]
    assert [kind().needs_tower() for kind in (plain, reader, cutter)] == [False, True, True]
    assert not cutter().needs_tower(5)


def test_arms_of_what_is_read():
    every = ("none", "trend", "padding", "both")
    assert arms_of("decoder") == arms_of("vision and decoder") == every
    assert arms_of("vision") == arms_of("tokens") == arms_of("nothing") == ("none", "padding")
    assert Method.arms() == every


def test_a_number_that_is_no_share_is_refused():
    for share in (0, 0.5, 1):
        budget.check_share("part", share)
    for share in (-0.01, 1.01):
        assert refused(budget.check_share, "part", share).startswith(f"part={share!r}: give a share")


@pytest.mark.parametrize("shape", [(4,), (3, 1), ()])
def test_a_score_of_another_shape_than_the_tokens_is_refused(shape):
    wrong = type("Wrong", (Method,), {"score": lambda self, view: torch.zeros(shape)})
    said = refused(choose, wrong(), SimpleNamespace(tokens=range(3), patches=None), None)
    assert said.startswith(f"Wrong.score returned shape {shape}; expected (3,)")


def test_the_layers_a_cut_looks_at():
    assert Cut(3, 1).looks == (2,)
    assert Cut(1, 1).looks == (0,)
    assert Cut(0, 1).looks == Cut(3, 1, source="same").looks == ()
    assert Cut(3, 1, also=(0, 2)).looks == (0, 2)
    assert Cut(4, 1, "same", also=(1,)).looks == (1,)
    assert Cut(4, 1) == Cut(4, 1, "previous", "last", ())
    with pytest.raises(AttributeError):
        Cut(4, 1).layer = 3


def test_the_highest_and_the_others():
    rng = random.Random(2)
    for _ in range(60):
        n = rng.randint(1, 40)
        count = rng.randint(0, n)
        score, ahead = [rng.randint(0, 5) for _ in range(n)], [rng.random() < 0.3 for _ in range(n)]
        order = sorted(range(n), key=lambda i: (-score[i], i))
        assert cut.top(torch.tensor(score).float(), count).tolist() == sorted(order[:count])
        order = sorted(range(n), key=lambda i: (not ahead[i], -score[i], i))
        kept = cut.top(torch.tensor(score).float(), count, torch.tensor(ahead))
        assert kept.tolist() == sorted(order[:count])
        assert cut.others(n, kept).tolist() == [i for i in range(n) if i not in kept.tolist()]


def test_regions_and_their_shares():
    rng = random.Random(3)
    for _ in range(40):
        n, across = rng.randint(1, 30), rng.randint(1, 3)
        xy = [(rng.randint(2, 9), rng.randint(5, 8)) for _ in range(n)]
        left, upper = (min(place[axis] for place in xy) for axis in (0, 1))
        wide, high = (max(place[axis] for place in xy) - low + 1 for axis, low in ((0, left), (1, upper)))
        where = [(y - upper) * across // high * across + (x - left) * across // wide for x, y in xy]
        assert regions.regions(torch.tensor(xy), across).tolist() == where

        score, last = [rng.randint(0, 4) for _ in range(n)], [rng.random() < 0.2 for _ in range(n)]
        low = [-math.inf if border else value for value, border in zip(score, last, strict=True)]
        rank = [sum(where[j] == where[i] and (low[j], -j) > (low[i], -i) for j in range(n)) for i in range(n)]
        got = regions.rank_within(torch.tensor(low), torch.tensor(where))
        assert got.tolist() == rank
        count, given = rng.randint(0, n), (torch.tensor(score).float(), torch.tensor(where))
        order = sorted(range(n), key=lambda i: (last[i], 0 if last[i] else rank[i], -score[i], i))
        assert regions.evenly(*given, count, torch.tensor(last)).tolist() == order[:count]

        weight = [rng.randint(1, 9) for _ in range(across * across)]
        part = [count * one / sum(weight) for one in weight]
        seats = [math.floor(one + 1e-12) for one in part]
        heavy = sorted(range(len(weight)), key=lambda i: (-weight[i], i))
        for region in heavy[: count - sum(seats)]:
            seats[region] += 1
        order = sorted(range(n), key=lambda i: (2 if last[i] else rank[i] >= seats[where[i]], -score[i], i))
        found = regions.shared(*given, torch.tensor(weight).float(), count, torch.tensor(last))
        assert found.tolist() == order[:count]


def test_choices_by_distance_and_by_determinant_begin_and_end_as_they_should():
    square = torch.tensor([[0.0, 1, 2, 9], [1, 0, 3, 9], [2, 3, 0, 9], [9, 9, 9, 0]])
    assert greedy.farthest(square, 4).tolist() == [3, 0, 2, 1]
    assert greedy.farthest(square, 2, torch.tensor([True, True, True, False])).tolist() == [2, 1]
    kernel = torch.diag(torch.tensor([1.0, 3.0, 2.0, 3.0]))
    assert greedy.determinantal(kernel, 4).tolist() == [1, 3, 2, 0]
    alike = torch.tensor([[2, 1.9, 0], [1.9, 2, 0], [0, 0, 1]])
    for scale in (1e-6, 1, 1e6):
        assert greedy.determinantal(alike * scale, 3).tolist() == [0, 2, 1]
    assert greedy.farthest(square, 0).tolist() == greedy.determinantal(kernel, 0).tolist() == []
    half = torch.tensor([[3, 0], [0, 4]], dtype=torch.bfloat16)
    assert greedy.likeness(half).tolist() == [[1, 0], [0, 1]]
    assert greedy.likeness(half).dtype == torch.float32
    assert greedy.likeness(half.double()).dtype == torch.float64
    skew = torch.tensor([[1.0, 1.0], [1.0, 0.0], [-2.0, 0.0]])
    torch.testing.assert_close(greedy.unit(skew[None]), greedy.unit(skew)[None])
    torch.testing.assert_close(
        greedy.likeness(skew), torch.tensor([[1, 0.5**0.5, -(0.5**0.5)], [0.5**0.5, 1, -1], [-(0.5**0.5), -1, 1]])
    )


class Eight:
    slots = torch.arange(8)

    def __len__(self):
        return 8


class Bordered:
    """As much of a View as `chosen` reads."""

    def __init__(self, count, valid):
        self.count, self.valid = count, None if valid is None else torch.tensor(valid)
        self.valid_on_host, self.tokens = self.valid, Eight()


def test_padding_fills_up_what_a_choice_leaves():
    asked = []

    def choose(count, among):
        asked.append((count, among is None))
        return torch.tensor([7, 2, 5, 3][:count])

    border = [False, True, True, True, False, True, False, True]
    assert greedy.chosen(Bordered(3, None), choose).tolist() == [2, 5, 7]
    assert greedy.chosen(Bordered(3, border), choose).tolist() == [2, 5, 7]
    valid = [False, False, True, True, False, True, False, True]
    assert greedy.chosen(Bordered(6, valid), choose).tolist() == [0, 1, 2, 3, 5, 7]
    assert asked == [(3, True), (3, False), (4, False)]
    assert greedy.chosen(Bordered(8, valid), choose).tolist() == list(range(8))  # nobody is asked where all stay
    assert len(asked) == 3


def test_a_picture_of_several_views():
    def part(base, cls=True):
        tokens = torch.arange(3.0) + base
        return Patches(
            tokens.expand(2, 3) * torch.tensor([[1.0], [2.0]]), tokens[:, None] * 10,
            tokens.expand(2, 3)[..., None] * 100,
            torch.tensor([base]) if cls else None, (tokens.expand(1, 3) * 7,),
        )  # fmt: skip

    shown = torch.tensor([4, -1, 0, 2, 5])
    picture = joined([part(1.0), part(4.0)], shown)
    assert picture.view.tolist() == [1, -1, 0, 0, 1]
    assert picture.attention.tolist() == [[5, 0, 1, 3, 6], [10, 0, 2, 6, 12]]
    assert picture.features.tolist() == [[50], [0], [10], [30], [60]]
    assert picture.keys[..., 0].tolist() == [[500, 0, 100, 300, 600]] * 2
    assert picture.glances[0].tolist() == [[35, 0, 7, 21, 42]]
    assert picture.cls.tolist() == [[1], [4]]
    assert [tokens.tolist() for tokens in picture.views()] == [[2, 3], [0, 4]]
    one = picture.at(torch.tensor([0, 4]), 1)
    assert one.attention.tolist() == [[5, 6], [10, 12]]
    assert one.features.tolist() == [[50], [60]]
    assert one.keys[0, :, 0].tolist() == [500, 600]
    assert one.cls.tolist() == [4]
    assert one.glances[0].tolist() == [[35, 42]]
    bare = joined([part(1.0, cls=False)], torch.arange(3))
    assert bare.cls is None
    assert bare.at(torch.tensor([1]), 0).cls is None


def test_score_arithmetic_at_its_edges():
    deep = torch.tensor([0.0, 0.2, 0.3])
    flat = torch.zeros(3)
    assert Scores() == Scores("raw", 2, 0.5, 1e-7, True)
    with pytest.raises(AttributeError):
        Scores().kind = "ratio"
    assert refused(Scores, "any").startswith("unknown score arithmetic 'any'; known: raw, ratio, subtract, zscore")
    assert Scores()(deep.half()).dtype == torch.float32
    assert refused(Scores("prior"), deep).startswith("scores of kind 'prior' divide by a measured prior")
    assert refused(Scores("ratio"), deep).startswith("scores of kind 'ratio' compare with a shallow layer")
    close = torch.testing.assert_close
    close(Scores("prior", eps=0.5)(deep, prior=flat), deep * 2)
    close(Scores("ratio", eps=0.25)(deep, flat), deep * 4)
    close(Scores("ratio", eps=0.25)(deep.double(), flat.double()), deep * 4)  # in float32
    close(Scores("residual", weight=0.25)(deep, deep * 4), torch.full((3,), float(deep.mean())))
    close(Scores("weighted", weight=0.25, eps=1.0)(deep, flat), 0.25 * deep / 1.3)
    close(Scores("weighted", weight=0.25, eps=1.0)(flat, deep), 0.75 * deep / 1.3)
    spread = float(deep.std(correction=0))
    close(Scores("zscore", eps=0.5)(deep, flat), (deep - deep.mean()) / (spread + 0.5))
    close(Scores("zscore", eps=0.5)(flat, deep), -(deep - deep.mean()) / (spread + 0.5))
    even, steep = torch.full((4,), 0.25), torch.tensor([0.1, 0.2, 0.3, 0.4])
    for rows in (deep, torch.stack([deep, deep.flip(0)])):  # every row by itself
        for kind in ("zscore", "weighted", "residual", "entropy_ratio"):
            whole = Scores(kind)(rows, rows * rows + 0.1)
            each = [Scores(kind)(row, row * row + 0.1) for row in rows.reshape(-1, 3)]
            close(whole.reshape(-1, 3), torch.stack(each))
    warmth = float(entropy(steep)) / math.log(4)
    close(Scores("entropy_ratio", eps=0.5)(steep, even), steep / 0.75)
    power = steep ** (1 / (math.log(4) / float(entropy(steep))))
    close(Scores("entropy_ratio", eps=1e-7)(even, steep), even / (power / power.sum() + 1e-7))
    assert warmth < 1
    close(entropy(torch.tensor([[2.0, 2.0], [5.0, 0.0]])), torch.tensor([math.log(2), 0.0]))


def test_what_suppression_refuses_and_leaves_out():
    assert Suppression() == Suppression(2.0, True, 1.0)
    for radius in (0.0, -1.0):
        assert refused(Suppression, radius=radius).startswith(f"radius={radius!r}: give a number of patches above 0")
    assert refused(Suppression, radius=None, alike=False).startswith("suppression needs distance or likeness")
    assert refused(Suppression, strength=2).startswith("strength=2")
    xy, one = torch.tensor([[0, 0], [3, 4], [0, 0]]), torch.tensor([0, 0, 1])
    pull = Suppression(radius=5.0, alike=False, strength=0.5).pull(torch.ones(3, 2).half(), xy, one)
    near = 0.5 * math.exp(-0.5)
    torch.testing.assert_close(pull, torch.tensor([[0.5, near, 0], [near, 0.5, 0], [0, 0, 0.5]]))
    with pytest.raises(AttributeError):
        Suppression().radius = 3.0
    whole = torch.ones(3, 3)  # all that is left of a score is 2^-40 of it, which still tells two apart
    assert Suppression(radius=0.5).radius == 0.5
    for scale in (1e-30, 1.0, 1e4):
        assert Suppression()(torch.tensor([0.0, 4.0, 2.0, 3.0]) * scale, torch.ones(4, 4), 4).tolist() == [1, 3, 2, 0]
    level = torch.full((3,), 2.0)
    assert Suppression()(level, whole * 0, 3).tolist() == [0, 1, 2]
    assert Suppression()(level, whole, 0).tolist() == []
    some = torch.tensor([True, False, True])
    assert Suppression()(torch.tensor([-5.0, 9.0, -4.0]), whole * 0, 2, some).tolist() == [2, 0]


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket"))
    found = {
        tmp_path: "a folder",
        tmp_path / "pipe": "a pipe",
        tmp_path / "socket": "a socket",
        "/dev/null": "a device",
    }
    for path, kind in found.items():
        for call in (files.opened, files.only_regular):
            assert refused(call, path) == f"{path}: expected a regular file, found {kind}"
    server.close()
    (tmp_path / "file").write_bytes(b"abc")
    with files.opened(tmp_path / "file") as file:
        assert file.read() == b"abc"
        assert not os.get_inheritable(file.fileno())


def test_a_file_that_is_exchanged_while_it_is_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(files, "only_regular", lambda path: None)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert refused(files.opened, tmp_path / "pipe") == f"{tmp_path}/pipe: expected a regular file"
    assert before in (0, len(os.listdir("/proc/self/fd")) if before else 0)

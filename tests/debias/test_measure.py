"""Running means: as exact as all the numbers at once, mergeable, and careful about what they are used for."""

from __future__ import annotations

import pytest
import torch

from debias import Measure

ABOUT = {"model": "m", "layer": 1, "layout": "24x24", "prompt": "Describe."}


def data(rows: int, length: int = 40, seed: int = 0) -> torch.Tensor:
    # A large common level: sums of squares would lose the variance in it.
    return 1e6 + torch.rand(rows, length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_mean_and_variance_of_a_stream():
    rows = data(30)
    measure = Measure(40, **ABOUT)
    measure.add(rows[0])
    measure.add(rows[1:7])
    measure.add(rows[7:].reshape(1, 23, 40))
    assert measure.samples == 30
    assert (measure.count == 30).all()
    torch.testing.assert_close(measure.mean, rows.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(measure.variance, rows.var(0), rtol=1e-6, atol=0)


def test_positions_left_out_of_a_sample_are_left_out():
    rows = data(20)
    valid = torch.rand(20, 40, generator=torch.Generator().manual_seed(1)) > 0.3
    valid[:, 5] = False
    valid[1:, 6] = False
    valid[0, 6] = True
    spoiled = torch.where(valid, rows, torch.full_like(rows, float("nan")))
    measure = Measure(40, **ABOUT)
    measure.add(spoiled[:9], valid[:9])
    for row, mask in zip(spoiled[9:], valid[9:], strict=True):
        measure.add(row, mask)
    assert measure.count.tolist() == valid.sum(0).tolist()
    for position in range(40):
        seen = rows[valid[:, position], position]
        if len(seen):
            assert float(measure.mean[position]) == pytest.approx(float(seen.mean()), rel=1e-14)
        if len(seen) > 1:
            assert float(measure.variance[position]) == pytest.approx(float(seen.var()), rel=1e-6)
    assert measure.variance[[5, 6]].isnan().all()
    assert not measure.fit().residual[:5].isnan().any()
    assert measure.fit().residual.isnan().nonzero().flatten().tolist() == [5]
    extra = torch.zeros(40, dtype=torch.bool)
    extra[7] = True
    assert measure.fit(ignore=extra).residual.isnan().nonzero().flatten().tolist() == [5, 7]


def test_parts_merge_in_any_order_and_through_files(tmp_path):
    rows = data(25)
    parts = []
    for n, block in enumerate(rows.split([1, 10, 14])):
        part = Measure(40, **ABOUT)
        part.add(block)
        part.save(tmp_path / f"{n}.safetensors")
        parts.append(Measure.load(tmp_path / f"{n}.safetensors", **ABOUT))
    for order in ([0, 1, 2], [2, 0, 1]):
        whole = Measure(40, **ABOUT)
        for n in order:
            whole.merge(parts[n])
        assert whole.samples == 25
        torch.testing.assert_close(whole.mean, rows.mean(0), rtol=1e-14, atol=0)
        torch.testing.assert_close(whole.variance, rows.var(0), rtol=1e-6, atol=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.safetensors", "1.safetensors", "2.safetensors"]
    again = Measure.load(tmp_path / "1.safetensors")
    assert (again.samples, again.about) == (10, {"length": 40, **ABOUT})


def test_an_empty_measure_is_kept_in_double_precision(tmp_path):
    from safetensors.torch import load_file

    assert Measure(3, model="m", layer=1, layout="24x24").about["prompt"] == ""
    Measure(3, **ABOUT).save(tmp_path / "m.safetensors")
    found = load_file(tmp_path / "m.safetensors")
    assert {name: tensor.dtype for name, tensor in found.items()} == dict.fromkeys(
        ("count", "mean", "spread"), torch.float64
    )


def test_another_layout_is_refused(tmp_path):
    measure = Measure(40, **ABOUT)
    measure.add(data(3))
    measure.save(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"made with layout '24x24' and cannot serve layout '16x16'"):
        Measure.load(tmp_path / "m.safetensors", layout="16x16")
    for name, value in {"model": "n", "layer": 2, "prompt": "", "layout": "x"}.items():
        with pytest.raises(ValueError, match=f"made with {name}"):
            Measure(40, **{**ABOUT, name: value}).merge(measure)
    with pytest.raises(ValueError, match="made with length 40 and cannot serve length 41"):
        Measure(41, **ABOUT).merge(measure)
    with pytest.raises(ValueError, match="40 positions and the score 41"):
        measure.add(torch.zeros(41))
    with pytest.raises(ValueError, match="score 1 holds nan at position 2"):
        measure.add(torch.tensor([[1.0] * 40, [1.0, 1.0, float("nan")] + [1.0] * 37]))
    with pytest.raises(ValueError, match="at least one position"):
        Measure(0, **ABOUT)
    assert measure.samples == 3  # what was refused left nothing behind


def test_a_file_that_is_none_is_named(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "x.safetensors"
    path.write_bytes(b"not a safetensors file")
    with pytest.raises(ValueError, match=r"x\.safetensors: not usable as a measure"):
        Measure.load(path)
    save_file({"mean": torch.zeros(3)}, str(path))
    with pytest.raises(ValueError, match="not usable as a measure"):
        Measure.load(path)
    with pytest.raises(FileNotFoundError):
        Measure.load(tmp_path / "none")


def test_the_mean_curve_is_what_is_fitted():
    position = torch.arange(40)
    measure = Measure(40, **ABOUT)
    dice = torch.Generator().manual_seed(2)
    measure.add((0.02 * position).exp() * (0.5 + torch.rand(1000, 40, generator=dice)))
    assert measure.fit().rate == pytest.approx(0.02, abs=2e-3)
    assert measure.fit("rope", head_dim=8, theta=100.0).kind == "rope"

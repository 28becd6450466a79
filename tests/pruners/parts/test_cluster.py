import pytest
import torch

from pruners.parts.cluster import cluster_means, density_peaks


def by_hand(states, count):
    """DPC-KNN token by token, in plain Python floats."""
    rows = states.double().tolist()
    m, dim = len(rows), len(rows[0])
    d = [[(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / dim) ** 0.5 for y in rows] for x in rows]
    density = [torch.tensor(-sum(sorted(e * e for e in row)[:count]) / count).double().exp().item() for row in d]
    furthest = max(max(row) for row in d)
    delta = []
    for i in range(m):
        denser = [j for j in range(m) if density[j] > density[i] or (density[j] == density[i] and j < i)]
        delta.append(min((d[i][j] for j in denser), default=furthest))
    centres = sorted(range(m), key=lambda i: (-density[i] * delta[i], i))[:count]
    labels = [min(range(count), key=lambda c: (d[i][centres[c]], c)) for i in range(m)]
    for c, i in enumerate(centres):
        labels[i] = c
    return labels, centres


@pytest.mark.parametrize(
    ("m", "count", "scale", "shift"),
    [(1, 1, 1, 0), (2, 1, 1, 0), (7, 2, 1, 0), (25, 3, 1, 0), (40, 5, 1, 0), (30, 4, 0.125, 0), (30, 4, 1, 4096)],
)
def test_equals_the_definition(m, count, scale, shift):
    """Also where all are near each other, and where all are far from zero (whole numbers, so that no bit is lost)."""
    states = torch.randn(m, 8, generator=torch.Generator().manual_seed(m)) * scale
    states = (states * 64).round() / 64 + shift
    labels, centres = density_peaks(states, count)
    assert (labels.tolist(), centres.tolist()) == by_hand(states, count)


def test_finds_planted_clusters_and_averages_them():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 3, (30,), generator=generator)
    states = torch.eye(3)[truth] * 10 + 0.1 * torch.randn(30, 3, generator=generator)
    labels, _ = density_peaks(states, 3)
    assert len(set(zip(truth.tolist(), labels.tolist(), strict=True))) == 3
    means = cluster_means(states, labels, 3)
    for label in range(3):
        torch.testing.assert_close(means[label], states[labels == label].mean(0))


def test_equal_tokens_are_split_by_position():
    labels, centres = density_peaks(torch.ones(6, 4), 2)
    assert centres.tolist() == [0, 1]
    assert labels.tolist() == [0, 1, 0, 0, 0, 0]

from __future__ import annotations

import pytest

from eval.benchmarks import get
from eval.benchmarks.refcoco import place
from eval.reading.images import open_image

PROMPT = "Please provide the bounding box coordinate of the region this sentence describes: "


def write(folder, name="refcoco", splits=("val", "testA"), image="data/coco/train2014/COCO_train2014_{:012d}.jpg"):
    for split in splits:
        folder.lines(f"refcoco/{name}_{split}.jsonl", [
            {"image": image.format(n), "sent": f"left {split} {n}", "bbox": [20.0, 10, 60, 30],
             "height": 100, "width": 200}
            for n in range(2)])  # fmt: skip
    return get(name)


def test_both_frames(folder, answered):
    benchmark = write(folder)
    samples = benchmark.load(folder.root)
    assert [sample.id for sample in samples] == [f"refcoco_{s}_{n}" for s in ("val", "testA") for n in (0, 1)]
    assert samples[0].text == PROMPT + "left val 0"
    in_original = "[0.1, 0.1, 0.3, 0.3]"  # of 200 x 100
    in_square = "[0.1, 0.3, 0.3, 0.4]"  # of 200 x 200, with 50 rows of border above
    score = benchmark.score(answered(samples, in_square), samples)  # LLaVA's wording, so LLaVA's square
    assert score.value == 100
    assert score.info == {"frame": "square", "splits": ["testA", "val"]}
    assert (score.parts["square/val"], score.parts["original/val"]) == (100, 0)
    samples = benchmark.load(folder.root, frame="original")
    assert benchmark.score(answered(samples, in_original), samples).value == 100
    assert benchmark.score(answered(samples, in_square), samples).value == 0


def test_half_is_enough_and_no_box_is_nothing_in_either_frame(folder, answered):
    benchmark = write(folder, splits=("val",))
    samples = benchmark.load(folder.root, frame="original")
    assert (samples[0].group, samples[0].root) == (samples[0].image.relative_to(folder.root).as_posix(), folder.root)
    half = "[0.1, 0.1, 0.2, 0.3]"  # 20 of the 40 columns
    for answers, value in (({"refcoco_val_0": half, "refcoco_val_1": "no"}, 50), ({"refcoco_val_0": half}, 50)):
        score = benchmark.score(answered(samples, answers), samples)
        assert (score.value, score.parts["original/val"], score.parts["square/val"]) == (value, value, 0)
    assert benchmark.score(answered(samples[:1], "no"), samples[:1]).info == {"frame": "original", "splits": ["val"]}


def test_sizes_are_of_the_splits_that_are_there(folder):
    benchmark = write(folder, splits=("val", "testA"))
    samples = benchmark.load(folder.root)[:3]
    assert benchmark.sizes(samples) == [("refcoco val", 2, 10834), ("refcoco testA", 1, 5657)]


@pytest.mark.parametrize(
    ("name", "file", "root"),
    [
        ("x.jpg", "refcoco/x.jpg", "refcoco"),
        ("images/x.jpg", "refcoco/images/x.jpg", "refcoco/images"),
        ("a/b/x.jpg", "a/b/x.jpg", "a"),
        ("data/x.jpg", "x.jpg", ""),
        ("data/coco/x.jpg", "data/coco/x.jpg", "data/coco"),
        ("../x.jpg", "../x.jpg", ""),
    ],
)
def test_a_picture_must_not_leave_the_folder_that_its_name_begins_with(folder, name, file, root):
    folder.picture(file)
    (folder / "refcoco").mkdir(exist_ok=True)
    assert place(folder / "refcoco", name) == (folder / file, folder / root)


def test_the_smallest_picture_has_one_pixel(folder):
    record = {"image": "x", "sent": "s", "bbox": [0, 0, 1, 1], "height": 1, "width": 1}
    folder.lines("refcoco/refcoco_val.jsonl", [record])
    assert get("refcoco").load(folder.root)[0].target == (0, 0, 1, 1)


def test_internvl(folder, answered):
    benchmark = write(folder)
    samples = benchmark.load(folder.root, style="internvl", split="val")
    assert samples[0].text == PROMPT + "<ref>left val 0</ref>"
    score = benchmark.score(answered(samples, "left val 0[[100, 100, 300, 300]]"), samples)
    assert (score.value, score.n) == (100, 2)


def test_the_headline_is_the_mean_of_the_splits(folder, answered):
    benchmark = write(folder)
    folder.lines("refcoco/refcoco_testB.jsonl", [
        {"image": "x", "sent": "s", "bbox": [0, 0, 1, 1], "height": 9, "width": 9}] * 4)  # fmt: skip
    samples = benchmark.load(folder.root, frame="original")
    score = benchmark.score(answered(samples, lambda s: "[0.1,0.1,0.3,0.3]" if s.category == "val" else "no"), samples)
    assert score.value == pytest.approx(100 / 3)  # pooled, it would be 2 of 8
    assert score.unparsed == 6
    assert score.parts["val"] == 100


def test_sets_with_other_splits(folder):
    assert len(write(folder, "refcoco+", ("val", "testA", "testB")).load(folder.root)) == 6
    benchmark = write(folder, "refcocog", ("val", "test"))
    assert len(benchmark.load(folder.root)) == 4
    with pytest.raises(ValueError, match=r"refcocog has the splits val, test, not 'testA'"):
        benchmark.load(folder.root, split="testA")
    with pytest.raises(ValueError, match=r"refcoco_testB.jsonl: no such file"):
        write(folder).load(folder.root, split="testB")
    warnings = [str(fault) for fault in benchmark.check(folder.root) if fault.warning]
    assert any("refcocog test has 2 questions, the official set 9,602" in text for text in warnings)


@pytest.mark.parametrize(
    ("image", "file"),
    [
        ("refcoco/images/{:012d}.jpg", "refcoco/images/{:012d}.jpg"),
        ("data/coco/train2014/{:012d}.jpg", "data/coco/train2014/{:012d}.jpg"),
        ("data/coco/train2014/{:012d}.jpg", "coco/train2014/{:012d}.jpg"),
        ("data/coco/train2014/{:012d}.jpg", "../data/coco/train2014/{:012d}.jpg"),
    ],
)
def test_pictures_are_found_where_users_have_them(folder, image, file):
    for number in range(2):
        folder.picture(file.format(number), (200, 100))
    samples = write(folder, image=image).load(folder.root)
    assert open_image(samples[0]).size == (200, 100)


@pytest.mark.parametrize("image", ["/etc/hostname", "../../secret.jpg", "data/../../secret.jpg"])
def test_paths_that_leave_the_data_are_refused(folder, image):
    write(folder, image=image)
    folder.picture("../../secret.jpg")
    samples = get("refcoco").load(folder.root)
    with pytest.raises(ValueError, match="leads out of"):
        open_image(samples[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [20, 10, 5, 50]}, r"expected x1 < x2 and y1 < y2 in 'bbox', found .* \(x, y, width, height\?\)"),
        ({"bbox": [20, 10, 60, 10]}, "expected x1 < x2 and y1 < y2 in 'bbox'"),
        ({"bbox": [20, 10, 20, 50]}, "expected x1 < x2 and y1 < y2 in 'bbox'"),
        ({"bbox": [1, 2, 3]}, "expected four numbers in 'bbox'"),
        ({"bbox": [1, 2, "3", 4]}, "expected four numbers in 'bbox'"),
        ({"width": 0}, "expected a width and a height of at least 1, found 0 x 100"),
        ({"sent": 3}, "expected a string in 'sent', found 3"),
    ],
)
def test_broken_records(folder, change, message):
    record = {"image": "x", "sent": "s", "bbox": [0, 0, 1, 1], "height": 100, "width": 200, **change}
    folder.lines("refcoco/refcoco_val.jsonl", [record])
    with pytest.raises(ValueError, match=rf"refcoco_val.jsonl, line 1: {message}"):
        get("refcoco").load(folder.root)


def test_unknown_options_are_named(folder):
    write(folder)
    with pytest.raises(ValueError, match="refcoco has no option 'ocr'"):
        get("refcoco").load(folder.root, ocr=True)
    with pytest.raises(ValueError, match="expected the style llava or internvl, found 'x'"):
        get("refcoco").load(folder.root, style="x")
    with pytest.raises(ValueError, match="expected the frame original or square, found 'x'"):
        get("refcoco").load(folder.root, frame="x")

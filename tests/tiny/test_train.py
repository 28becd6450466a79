"""Training: the texts, the labels, the fast attention, and a few steps that can be interrupted."""

from __future__ import annotations

import pytest
import torch

from tiny import curves, meanings, prompts, tokenizer, train
from tiny.drawn import world
from tiny.drawn.clips import FRAMES
from tiny.drawn.drawing import draw
from tiny.drawn.scenes import BACKGROUNDS
from tiny.model import hidden
from tiny.training import film, lean, lessons, sight
from tiny.training.curriculum import PATIENCE, Curriculum
from tiny.training.learning import learn
from tiny.training.student import VISUAL, Student, answered


@pytest.fixture(scope="module")
def student() -> Student:
    return Student()


@pytest.fixture(scope="module")
def viewer() -> film.Viewer:
    return film.Viewer()


def test_every_prompt_is_made_of_known_words(student):
    unknown, fallback = student.tokens.unk_token_id, set(range(6, 262))
    for seed in range(40):
        every = lessons.turns(world.scene(seed), 20, dict.fromkeys(lessons.SKILLS, 1.0), lessons.SKILLS)
        for question, (answer, _) in every.items():
            ids = student.tokens.encode(prompts.dialogue([(question, answer)]))
            assert unknown not in ids, question
            assert not fallback & set(ids), question


@pytest.mark.parametrize(
    "text", ["plain words", "你好，世界", "naïve café", "a  b\n\nc", "[0.17, 0.25, 0.33, 1.00]", "🙂"]
)
def test_any_text_survives_the_tokenizer(student, text):
    ids = student.tokens.encode(text, add_special_tokens=False)
    assert student.tokens.decode(ids) == text


def test_chat_template_writes_the_prompt_of_the_benchmarks(student):
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    text = student.tokens.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == prompts.dialogue([("What is it?", "")])


def test_labels_are_the_answers_alone(student):
    turns = [("What is the red shape?", "ring"), ("How many hearts are there?", "2")]
    ids, labels = lessons.encode(turns, student.tokens, VISUAL)
    assert student.tokens.decode([k for k in labels if k >= 0]) == " ring</s> 2</s>"
    assert ids.count(student.image) == VISUAL
    assert ids[0] == student.tokens.bos_token_id


def test_a_dialogue_of_one_turn_is_tokenized_like_the_prompt_of_an_evaluation(student):
    ids, labels = lessons.encode([("What is the red shape?", "ring")], student.tokens, 1)
    asked = student.tokens.encode(prompts.dialogue([("What is the red shape?", "")]))
    assert ids[: len(asked)] == asked
    assert labels[len(asked) - 1] == lessons.IGNORE != labels[len(asked)]


def test_pixels_are_what_the_processor_makes(student):
    from tiny.folder import processor

    handler = processor(student.tokens)
    for seed in range(8):
        picture = draw(world.scene(seed))
        made = handler.image_processor(picture, return_tensors="pt")["pixel_values"][0]
        assert torch.allclose(torch.as_tensor(made), sight.pixels(picture), atol=1e-6)


def test_lean_attention_equals_the_library_in_values_and_gradients():
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 4, 30, 16, requires_grad=True) for _ in range(3))
    goal = torch.randn(2, 30, 4, 16)
    fast, _ = lean.attend(None, query, key, value, None)
    own = torch.autograd.grad((fast * goal).sum(), (query, key, value))
    exact = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2)
    theirs = torch.autograd.grad((exact * goal).sum(), (query, key, value))
    assert torch.allclose(fast, exact, atol=0.03)
    for a, b in zip(own, theirs, strict=True):
        assert torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), 0) > 0.999


def test_hidden_columns_have_no_influence(student):
    batch = student.batch(5, 2, 1)
    visual = student.word_sums(batch.words)
    columns = torch.zeros(batch.ids.shape, dtype=torch.bool)
    columns[:, batch.start : batch.start + VISUAL] = True
    with torch.no_grad(), hidden(student.decoder, range(len(student.decoder.layers)), columns):
        seen, unseen = student.states(batch, visual), student.states(batch, torch.zeros_like(visual))
    after = batch.start + VISUAL
    assert torch.equal(seen[:, after:], unseen[:, after:])
    with torch.no_grad():
        assert not torch.equal(student.states(batch, visual)[:, after:], unseen[:, after:])
    assert all(not layer._forward_pre_hooks for layer in student.decoder.layers)


def test_thin_batches_keep_every_thing_and_its_position(student):
    whole, thin = student.batch(11, 4, 2), student.batch(11, 4, 2, thin=3)
    assert thin.visual < whole.visual == VISUAL
    for row in range(4):
        places = thin.positions[row, thin.start : thin.start + thin.visual] - thin.start
        assert torch.equal(thin.words[row], whole.words[row][places])
        named = [tokenizer.BORDER, *(f"▁{ground}" for ground in BACKGROUNDS)]
        empty = torch.isin(whole.words[row], torch.tensor(student.tokens.convert_tokens_to_ids(named))).any(1)
        busy = (~empty).nonzero().flatten()
        assert set(busy.tolist()) <= set(places.tolist())
    assert torch.equal(thin.labels[thin.labels >= 0], whole.labels[whole.labels >= 0])


def test_answered_wants_every_token_of_an_answer(student):
    batch = student.batch(3, 2, 4)
    labels = batch.labels[:, 1:].clamp_min(0)
    logits = torch.nn.functional.one_hot(labels, len(student.tokens)).float()
    right = answered(batch, logits)
    assert all(right)
    assert len(right) >= 6
    place = (batch.labels[0, 1:] >= 0).nonzero()[0, 0]
    logits[0, place] = 0
    assert answered(batch, logits).count(False) == 1


def test_learning_goes_on_after_an_interruption(tmp_path, monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr("tiny.training.learning.time.time", lambda: next(clock))  # every step takes one second
    # and so does what a checkpoint holds beside weights
    told = Curriculum({"one": lessons.Skill(("colour",))})
    layer = torch.nn.Linear(1, 1)
    steps: list[int] = []
    stop_at = 150

    def step_loss(step, share):
        if step == stop_at:
            raise RuntimeError("the power went off")
        steps.append(step)
        told.learn(["one"], [False])
        loss = (layer(torch.ones(1)) - 3).square().sum()
        return loss, loss.item()

    def train() -> None:
        learn(tmp_path, "toy", {"layer": layer, "told": told}, 300, 0.1, step_loss, dict)

    with pytest.raises(RuntimeError, match="power"):
        train()
    assert steps == list(range(150))
    steps.clear()
    stop_at = -1
    train()
    assert steps == list(range(steps[0], 300))
    assert 100 < steps[0] <= 150
    assert layer(torch.ones(1)).item() == pytest.approx(3, abs=0.1)
    assert told.steps == {"one": 300}


SKILLS = {
    "first": lessons.Skill(("colour",)),
    "second": lessons.Skill(("shape",)),
    "third": lessons.Skill(("count",), after=("first",)),
}


def practise(curriculum: Curriculum, skill: str, right: bool, answers: int = 1000) -> None:
    curriculum.learn([skill] * answers, [right] * answers)


def test_the_curriculum_takes_skills_in_order_and_waits_for_what_they_need():
    curriculum = Curriculum(SKILLS)
    assert curriculum.focus == "first"
    assert curriculum.weights() == {"first": 1.0}
    practise(curriculum, "first", True)
    assert curriculum.focus == "second"
    practise(curriculum, "second", True)
    assert curriculum.focus == "third"
    practise(curriculum, "first", False)
    assert curriculum.focus == "first"  # forgotten: it comes back before what needs it
    for skill in ("first", "third"):
        practise(curriculum, skill, True)
    assert curriculum.focus is None
    assert sum(curriculum.weights().values()) == pytest.approx(1)


def test_a_skill_that_does_not_come_makes_room_for_the_next():
    curriculum = Curriculum(SKILLS)
    seen = []
    for _ in range(4 * PATIENCE):
        seen.append(curriculum.focus)
        curriculum.learn(["first"], [False])
    block = [name for name in ("first", "second", "first", "second") for _ in range(PATIENCE)]
    assert seen == block


def test_a_skill_that_improves_keeps_its_turn():
    curriculum = Curriculum(SKILLS)
    for step in range(3 * PATIENCE):
        assert curriculum.focus == "first"
        # one answer in four is right, then one in two, then three in four
        curriculum.learn(["first"] * 8, [k % 4 <= step // PATIENCE for k in range(8)])
    for _ in range(PATIENCE + 1):
        curriculum.learn(["first"], [False])
    assert curriculum.focus == "second"
    again = Curriculum(SKILLS)
    again.load_state_dict(curriculum.state_dict())
    assert again.state_dict() == curriculum.state_dict()
    assert again.focus == "second"


def test_half_of_the_questions_go_to_the_focus_and_weak_skills_are_rehearsed_more():
    curriculum = Curriculum(SKILLS)
    practise(curriculum, "first", True)
    practise(curriculum, "second", True)
    curriculum.accuracy |= {"first": 0.95, "second": 1.0}
    weights = curriculum.weights()
    assert weights["third"] == pytest.approx(sum(weights.values()) / 2)
    assert weights["first"] > weights["second"]


@pytest.mark.parametrize("name", lessons.SKILLS)
def test_every_skill_can_be_asked_and_labels_know_whose_answers_they_are(student, name):
    batch = student.batch(77, 4, 2, {name: 1.0}, signs=(1, 2))
    assert set(batch.skills) == {name}
    assert int((batch.labels == tokenizer.END).sum()) == len(batch.skills)


def test_clips_of_one_skill_and_thin(viewer):
    whole = viewer.batch(5, 3, 2, {"frame": 1.0}, pictures=False)
    thin = viewer.batch(5, 3, 2, {"frame": 1.0}, thin=2, pictures=False)
    assert set(whole.skills) == {"frame"}
    assert thin.visual < whole.visual == film.VISUAL
    heads = (thin.words == viewer.tokens.convert_tokens_to_ids(tokenizer.HEAD)).any(2).sum(1)
    assert all(heads >= 2 * FRAMES - 3)  # a blinking shape is hidden in up to three frames


def test_words_of_one_patch_do_not_blur_each_other(student):
    vectors = student.vectors
    assert torch.allclose(vectors.norm(dim=1), torch.ones(len(vectors)))
    ids = [meanings.numbers(group, student.tokens) for group in sight.GROUPS]
    for k, some in enumerate(ids):
        for other in ids[k + 1 :]:
            assert not (vectors[some] @ vectors[other].T).any()
    # a patch that holds one word of each group says all of them back
    chance = torch.Generator().manual_seed(0)
    for _ in range(20):
        named = [some[int(torch.randint(len(some), (1,), generator=chance))] for some in ids]
        heard = vectors[named].sum(0)
        assert [some[int((vectors[some] @ heard).argmax())] for some in ids] == named


def test_places_are_waves_a_step_is_the_same_turn_everywhere():
    for n in (6, 12):
        code = meanings.waves(n)
        alike = code @ code.T
        for step in range(n):
            assert torch.allclose(alike.diagonal(step), alike[0, step].expand(n - step), atol=1e-5)
        assert (alike.argmax(1) == torch.arange(n)).all()
        assert alike[0, n - 1] < 0 < alike[0, 1]


def brute(scene, words):
    """The things that a description like "the big red shape" fits, word by word."""
    wanted = words.removeprefix("the ").removesuffix(" shape").split()
    return [t for t in scene.things if set(wanted) - {"shape"} <= {t.size, t.colour, t.shape}]


def test_lessons_of_place_tell_the_truth():
    seen = 0
    for seed in range(60):
        here = world.scene(seed)
        for lot in range(3):
            prompt, answer = lessons.turn(lessons.SKILLS["corner"], here, lot) or ("", "")
            if prompt:
                (thing,) = brute(here, prompt.removeprefix(prompts.CORNER))
                side, (width, height) = max(here.size), here.size
                x, y = thing.box[0] + (side - width) // 2, thing.box[1] + (side - height) // 2
                assert answer == f"{x * 12 // side / 12:.2f}, {y * 12 // side / 12:.2f}"
                seen += 1
            prompt, answer = lessons.turn(lessons.SKILLS["region"], here, lot) or ("", "")
            if prompt:
                boxes = {prompts.box_answer(t.box, here.size): f"{t.size} {t.colour} {t.shape}" for t in here.things}
                assert boxes[prompt.removeprefix(prompts.REGION)] == answer
                seen += 1
    assert seen > 200


def test_tokenizer_is_the_same_every_time(student):
    assert tokenizer.build().get_vocab() == student.tokens.get_vocab()


@pytest.mark.long
def test_all_stages_run_one_after_the_other_and_write_both_models(tmp_path, monkeypatch):
    words = f"train all --run {tmp_path} --steps 1 --device cpu --to {tmp_path / 'assets'}"
    monkeypatch.setattr("sys.argv", words.split())
    train.main()
    weights = sorted(path.parent.name for path in (tmp_path / "assets").glob("*/model.safetensors"))
    assert weights == ["tiny-llava", "tiny-video-llava"]


def test_slow_parameters_learn_at_half_the_rate(tmp_path):
    quick, slow = (torch.nn.Parameter(torch.zeros(3)) for _ in range(2))
    pair = torch.nn.ParameterDict({"quick": quick, "slow": slow})

    def loss(step, share):
        total = (quick - 1).square().sum() + (slow - 1).square().sum()
        return total, total.item()

    learn(tmp_path, "pair", {"pair": pair}, 1, 1e-2, loss, dict, cool=False, warm_up=1, slow=[slow])
    assert torch.allclose(quick, torch.full((3,), 1e-2))  # the first step of Adam is the rate itself
    assert torch.allclose(slow, torch.full((3,), 5e-3))


def test_a_curve_shows_steps_once_that_were_made_again(tmp_path):
    steps = [10, 20, 30, 25, 35]
    (tmp_path / "tune.jsonl").write_text("".join(f'{{"step": {step}, "place": {k}}}\n' for k, step in enumerate(steps)))
    told = curves.lines(tmp_path / "tune.jsonl")
    assert [line["step"] for line in told] == [10, 20, 25, 35]
    assert [line["place"] for line in told] == [0, 1, 3, 4]
    assert curves.lines(tmp_path / "none.jsonl") == []

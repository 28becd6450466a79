"""Two questions about drawn pictures, for harnesses that bring their own tasks."""

import pytest


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Two portrait pictures of the tiny world, which are padded to a square."""
    from tiny.drawn import world

    folder = tmp_path_factory.mktemp("photos")
    found = []
    for number in range(2):
        picture = world.draw(world.scene(2 * 10**9 + number)).resize((64, 96))
        found.append(folder / f"{number}.png")
        picture.save(found[-1])
    return found


@pytest.fixture(scope="session")
def answers(photos):
    """What the library itself says: FastV with 36 tokens, the padding silenced; one question at a time."""
    from PIL import Image

    from debias import Debias
    from eval.answering.backends import greedy
    from eval.core.embedded import EMBEDDED
    from pruners import make
    from pruners.models import Request, adapter

    family = adapter(EMBEDDED["image"]).load(EMBEDDED["image"], device="cpu")

    def ask(question, longest=5):
        texts, kept = [], []
        for photo in photos:
            batch = family.encode([Request(question, [Image.open(photo)])])
            debias = Debias.paper("fastv", arm="padding")
            with make("fastv", keep=36)(family.model, debias, sizes=batch.sizes) as trace:
                out = family.model.generate(**batch.inputs, generation_config=greedy(family.model, longest))
            texts += family.decode(out[:, batch.inputs["input_ids"].shape[1] :])
            kept.append(sorted(trace.kept[0][0].tolist()))
        return texts, kept

    return ask


@pytest.fixture(scope="session")
def survivors():
    """What a model says to a prompt without the other tokens of its picture: the reference for a scout."""
    import torch

    from eval.harnesses.vllm import agreement
    from pruners.models import Request

    def said(family, question, kept, compact=False):
        """Step by step and without a cache. kept: raster indices; compact: positions are numbered anew."""
        inputs = family.encode([Request(question.text, [question.image])]).inputs
        ids = inputs["input_ids"][0]
        layers, seen = family.decoder, {}
        hook = layers.register_forward_pre_hook(lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True)
        with torch.inference_mode():
            family.model(**{name: value for name, value in inputs.items() if name != "attention_mask"})
            hook.remove()
            embeds, positions = seen["inputs_embeds"], seen.get("position_ids")
            positions = torch.arange(len(ids))[None] if positions is None else positions
            picture = (ids == family.model.config.image_token_id).nonzero()[:, 0]
            here = torch.ones(len(ids), dtype=torch.bool)
            here[picture] = False
            here[picture[kept]] = True
            embeds, positions = embeds[:, here], positions[..., here]
            if compact:
                positions = torch.arange(embeds.shape[1])[None]
            answer = []
            for _ in range(agreement.LONGEST):
                mask = torch.ones(embeds.shape[:2], dtype=torch.long)  # without it, gaps are taken for other prompts
                states = layers(inputs_embeds=embeds, position_ids=positions, attention_mask=mask, use_cache=False)[0]
                answer.append(int(family.model.lm_head(states[:, -1]).argmax()))
                new = family.model.get_input_embeddings()(torch.tensor([answer[-1:]]))
                embeds = torch.cat([embeds, new], 1)
                positions = torch.cat([positions, torch.full_like(positions[..., -1:], positions.max() + 1)], -1)
        return agreement.ended(family, answer)

    return said

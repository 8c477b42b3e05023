from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import tiny, tiny_model
from tiny_problems import copy_task, toy_task
from transformers import AutoModelForMaskedLM

from deltatheory.control.reach import PromptSearch, reach
from deltatheory.control.reach.question import Question, pose
from deltatheory.problems import Setup
from deltatheory.results import ResultLog

QUICK = PromptSearch(steps=6, restarts=1, rounds=2, candidates=5, pool=5, chunk=4)
TASK = toy_task(3, test=9)


@pytest.fixture(scope="module")
def causal():
    return Setup(tiny("gpt2", dtype=torch.float64), TASK, suffix=" p")


@pytest.fixture(scope="module")
def found(causal):
    return reach(causal, [2, 1], search=QUICK)


def test_no_control_is_the_frozen_network(causal, found):
    backbone = causal.backbone
    texts = [f"{text} p" for text in TASK.test.texts]
    logits = backbone.vocabulary_logits(backbone.pooled(backbone.encode(texts)))
    words = [backbone.tokenizer.convert_tokens_to_ids(TASK.label_words[c]) for c in TASK.test.labels]
    order = logits.argsort(descending=True)
    assert found.ranks == [order[i].tolist().index(word) + 1 for i, word in enumerate(words)]
    first = sum(rank == 1 for rank in found.ranks)
    assert 0 < first < 9
    assert {way.name: found.reached(way.name, 0) for way in found.ways} == dict.fromkeys(
        ("continuous", "discrete", "prefix", "random", "repeat"), first
    )


def test_longer_prompts_count_what_shorter_ones_reached(found):
    assert found.lengths == [1, 2]
    for way in found.ways:
        shares = [found.share(way.name, k) for k in (0, 1, 2)]
        assert shares == sorted(shares)
        assert all((k is None) == (margin <= 0) for k, margin in zip(way.shortest, way.margins, strict=True))
        low, high = found.interval(way.name, 2)
        assert low <= found.share(way.name, 2) <= high
    assert found.share("prefix", 2) > found.share("prefix", 0)
    groups = [found.reached("prefix", 2, group) for group in ((1, 1), (2, 20))]
    assert sum(groups) == found.reached("prefix", 2)


def test_random_words_cost_as_many_passes_as_the_search_for_words(found):
    assert 0 < found.passes["random"] <= found.passes["discrete"]
    assert found.passes["repeat"] <= 2 * 9
    assert found.way("discrete").words.count(None) == sum(rank == 1 for rank in found.ranks)


def test_what_is_left_alone_costs_nothing(causal):
    everything = reach(causal, 1, search=PromptSearch(margin=-1e6))
    assert set(everything.way("discrete").shortest) == {0}
    assert sum(everything.passes.values()) == everything.passes["no control"] == 9


def test_a_search_goes_on_where_it_was_cut_off(causal, found, tmp_path):
    log = ResultLog(tmp_path / "log.jsonl")

    class Cut(Exception):
        pass

    def cut(done, total, what):
        if what == "discrete, k = 2":
            raise Cut

    with pytest.raises(Cut):
        reach(causal, [1, 2], search=QUICK, log=log, on_chunk=cut)
    kept = len(log.rows())
    seen: list[tuple] = []
    resumed = reach(causal, [1, 2], search=QUICK, log=log, on_chunk=lambda *about: seen.append(about))
    assert len(log.rows()) == len(seen) > kept > 0
    assert seen[-1][0] <= seen[-1][1] == 5 * 2 * 9
    assert [way.shortest for way in resumed.ways] == [way.shortest for way in found.ways]
    assert resumed.passes == found.passes
    again = reach(causal, [1, 2], search=QUICK, log=log)
    assert len(log.rows()) == len(seen)
    assert again.seconds["discrete"] == resumed.seconds["discrete"]  # of the search, not of reading it


def test_the_last_token_of_a_text_is_held_back(causal):
    asked = pose(causal.replace(suffix=""), "next")
    decode = causal.backbone.tokenizer.decode
    assert [f"{decode(row)} {name}" for row, name in zip(asked.rows, asked.names, strict=True)] == list(
        TASK.test.texts
    )
    assert asked.words == tuple((token,) for token in asked.targets)


def test_likely_tokens_are_drawn_by_lot(causal):
    asked = [pose(causal.replace(seed=seed), "top:4") for seed in (0, 0, 1)]
    assert asked[0].targets == asked[1].targets != asked[2].targets
    assert all(set(one.ranks()[0]) <= {1, 2, 3, 4} for one in asked)
    assert len({*asked[0].ranks()[0], *asked[2].ranks()[0]}) == 4
    assert asked[0].passes == 9


def test_encoders_are_asked_for_classes_or_for_words_at_a_mask():
    setup = Setup(tiny("bert"), TASK)
    of_classes = reach(setup, 1, ways=["discrete"], search=QUICK)
    assert (of_classes.among, of_classes.targets[:3]) == ("classes", list(TASK.label_names))
    assert max(of_classes.ranks) <= 3
    assert of_classes.bounds == []
    masked = Setup(tiny_masked(), TASK, suffix=" p [MASK]")
    of_words = pose(masked)
    assert (of_words.among, of_words.names[:3]) == ("vocabulary", TASK.label_words)
    assert pose(masked.replace(suffix="")).among == "classes"


def tiny_masked():
    from tiny_models import tiny_model, tiny_tokenizer

    from deltatheory.backbones import wrap_model

    tokenizer = tiny_tokenizer("bert")
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    model = tiny_model("bert", AutoModelForMaskedLM, vocab_size=21)
    return wrap_model(model, tokenizer, name="tiny-masked")


def test_a_question_is_named_by_all_that_its_answers_depend_on(causal):
    def name(setup, **asked):
        return pose(setup, **asked).name

    fitted = Setup(tiny("bert"), TASK, head="prototypes")
    names = [
        *(name(causal.replace(suffix=suffix)) for suffix in (" p", " o")),
        *(name(causal, goal=goal) for goal in ("top:3", "word:c")),
        *(name(fitted.replace(train_examples=n)) for n in (6, 12)),
        name(fitted.replace(test_examples=3)),
        name(fitted.replace(head="label-words")),
    ]
    assert len(set(names)) == len(names)
    assert name(causal) == names[0]


@pytest.mark.parametrize(
    ("family", "options"),
    [("t5", {"feed_forward_proj": "gated-gelu"}), ("bart", {"decoder_attention_heads": 2})],
)
def test_encoder_decoders_are_asked_for_the_first_word_of_the_answer(family, options):
    backbone = tiny(family, **options)
    found = reach(Setup(backbone, TASK), 1, search=QUICK)
    assert found.among == "vocabulary"
    assert len(found.bounds) == (family == "bart")  # T39 knows no relative positions
    assert found.share("prefix", 1) > found.share("prefix", 0)
    plain = tiny_model(family, **options).eval()
    for i, (k, word) in enumerate(
        zip(found.way("discrete").shortest, found.way("discrete").words, strict=True)
    ):
        if not k:
            continue
        row = [
            *backbone.tokenizer(word, add_special_tokens=False)["input_ids"],
            *backbone.tokenizer(TASK.test.texts[i])["input_ids"],
        ]
        logits = plain(torch.tensor([row]), decoder_input_ids=torch.tensor([backbone.start])).logits
        assert backbone.tokenizer.decode(logits[0, -1].argmax()) == found.targets[i]


def test_a_search_that_finds_no_more_than_the_habit_is_named(found):
    lazy, lazy_share = replace(found.way("repeat"), name="discrete"), found.share("repeat", 2)
    said = replace(found, ways=[found.way("prefix"), lazy, found.way("repeat")]).answer()
    assert said.missed
    assert said.note.items[0] == "discrete reaches no more than repeat at any k, and that searches nothing."
    assert "prefix reaches no more" not in " ".join(said.note.items)
    assert said.sentence.startswith(f"With 2 tokens {lazy_share:.0%}")


REFUSED = [
    ("gpt2", {"k": 0}, "k=0: must be at least 1"),
    ("gpt2", {"k": True}, "k=True: must be a whole number"),
    ("gpt2", {"k": []}, "give at least one"),
    ("gpt2", {"k": [1, 36]}, "k=36: before the longest text, of 6 tokens, 'tiny-gpt2' takes at most 34"),
    ("gpt2", {"ways": ["discreet"]}, "way='discreet': allowed are continuous, discrete, prefix"),
    ("gpt2", {"goal": "first"}, "goal='first': allowed are 'label', 'next'"),
    ("gpt2", {"goal": "top:0"}, "must be at least 1"),
    ("gpt2", {"goal": "word:a b"}, r"is 2 tokens to 'tiny-gpt2', \['a', 'b'\]"),
    ("gpt2", {"goal": "word:zebra"}, "is not in the vocabulary of 'tiny-gpt2'"),
    ("gpt2", {"goal": "next", "among": "classes"}, "among='classes' takes 'label'"),
    ("gpt2", {"among": "words"}, "allowed are 'vocabulary' and 'classes'"),
    ("bert", {"goal": "next"}, "among='classes' takes 'label'"),
    ("bert", {"among": "vocabulary"}, "has no lm_head"),
    ("t5", {"goal": "next"}, r"\(encoder-decoder\) does not read texts from left to right"),
    ("bart", {}, "way='prefix': the attentions of 'tiny-bart' have keys of several shapes"),
]


@pytest.mark.parametrize(("family", "asked", "message"), REFUSED)
def test_bad_input_is_refused_before_the_first_search(family, asked, message, monkeypatch):
    monkeypatch.setattr(Question, "ranks", lambda _: pytest.fail("a pass"))
    with pytest.raises(ValueError, match=message):
        reach(Setup(tiny(family), TASK), **{"k": 1, "search": QUICK, **asked})


def test_a_task_without_labels_is_asked_for_tokens():
    setup = Setup(tiny("gpt2"), copy_task(test=4))
    with pytest.raises(ValueError, match="has no labels: take goal='next'"):
        reach(setup, 1)
    assert len(pose(setup, "word:c").targets) == 4


def test_a_model_without_word_embeddings_is_refused(monkeypatch):
    backbone = tiny("gpt2")
    monkeypatch.setattr(backbone.model, "get_input_embeddings", lambda: torch.nn.Identity())
    with pytest.raises(ValueError, match="'tiny-gpt2' has no table of word embeddings"):
        reach(Setup(backbone, TASK), 1, search=QUICK)


def test_short_texts_are_left_out_and_it_is_said(causal):
    short = copy_task(test=6)  # of one, two and three letters
    asked = pose(Setup(causal.backbone, short), "next")
    assert len(asked) == 4
    assert asked.remarks == ("2 of 6 texts have one token, and are left out.",)


def test_logits_that_are_no_numbers_are_told_before_the_first_search():
    backbone = tiny("gpt2")
    with torch.no_grad():
        backbone.model.ln_f.weight[0] = torch.nan
    with pytest.raises(FloatingPointError, match="the logits are not finite"):
        reach(Setup(backbone, TASK), 1, search=QUICK)

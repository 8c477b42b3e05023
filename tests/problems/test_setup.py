"""A setup is made once, from names or objects, and its seed reaches everything that is drawn."""

import pytest
import torch
from delta_cases import CASES
from tiny_models import tiny, tiny_model, tiny_tokenizer
from tiny_problems import copy_task, toy_task

from deltatheory.deltas import LoRA, seeded
from deltatheory.problems import ClassificationProblem, CrossEntropy, GenerationProblem, Setup
from deltatheory.problems import setup as names


def test_nothing_is_loaded_before_it_is_asked_for_and_then_once(monkeypatch, backbone):
    loaded = []
    monkeypatch.setattr(names, "load_backbone", lambda name, device: loaded.append(name) or backbone)
    monkeypatch.setattr(names, "load_task", lambda name: loaded.append(name) or toy_task())
    setup = Setup("a-model", "a-task")
    assert loaded == []
    assert setup.problem("bitfit", check=False).backbone is setup.backbone
    assert loaded == ["a-task", "a-model"]


@pytest.mark.parametrize(
    ("settings", "delta", "options", "message"),
    [
        ({"head": "probes"}, "bitfit", {}, "head='probes': no such head; nearest: probe"),
        ({"suffix": " is"}, "bitfit", {}, "suffix=' is': head='label-words' takes none"),
        ({"max_length": 0}, "bitfit", {}, "max_length=0: must be at least 1"),
        ({"train_examples": 0}, "bitfit", {}, "train_examples=0: must be at least 1"),
        ({"seed": -1}, "bitfit", {}, "seed=-1: must be at least 0"),
        ({}, "lora:x", {}, "delta='lora:x': after the colon"),
        ({}, "lora", {"rank": 1}, "option 'rank': the delta 'lora' has none of that name"),
        ({}, "subspace", {}, "option 'd': the delta 'subspace' needs it"),
    ],
)
def test_bad_arguments_are_refused_before_the_model_is_loaded(monkeypatch, settings, delta, options, message):
    def load(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(names, "load_backbone", load)
    with pytest.raises(ValueError, match=message):
        Setup("a-model", toy_task(), **settings).problem(delta, options)


def test_limits_are_upper_ones(backbone):
    setup = Setup(backbone, toy_task(train=24, test=12), train_examples=8, test_examples=100)
    assert (len(setup.task.train), len(setup.task.test)) == (8, 12)
    assert setup.task.provenance["limited"] == {"train": 8, "test": 12, "seed": 0}
    assert Setup(backbone, toy_task()).task.train == toy_task().train


def test_the_seed_draws_the_examples(backbone):
    draws = [Setup(backbone, toy_task(train=24), train_examples=8, seed=s).task.train for s in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_the_seed_reaches_a_random_head(backbone):
    heads = [Setup(backbone, toy_task(), head="random", seed=seed).head.weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.allclose(heads[0], heads[2])


@pytest.mark.parametrize("kind", ["label-words", "prototypes", "probe"])
def test_a_head_that_draws_nothing_is_the_same_for_every_seed(backbone, kind):
    heads = [Setup(backbone, toy_task(), head=kind, seed=seed).head.weight for seed in (0, 1)]
    assert torch.equal(*heads)


def test_a_seed_of_its_own_outweighs_that_of_the_setup(backbone):
    setup = Setup(backbone, toy_task(), seed=3)
    assert (setup.delta("lora").seed, setup.delta("lora", seed=5).seed) == (3, 5)
    parts = [("lora", {"r": 2}), ("adapter", {"bottleneck": 2, "seed": 7}), ("bitfit", {})]
    combined = setup.delta("combined", deltas=parts)
    assert [getattr(part, "seed", None) for part in combined.deltas] == [3, 7, None]


def test_the_task_decides_the_kind_of_problem():
    backbone = tiny("gpt2")
    classes = Setup(backbone, toy_task()).problem("bitfit", check=False)
    texts = Setup(backbone, copy_task(), suffix=" so").problem("bitfit", check=False, max_new_tokens=3)
    assert isinstance(classes, ClassificationProblem)
    assert isinstance(texts, GenerationProblem)
    assert (texts.suffix, texts.max_new_tokens) == (" so", 3)
    with pytest.raises(ValueError, match="is a generation task: allowed is classification"):
        Setup(backbone, copy_task()).classification("bitfit", check=False)


def test_a_setup_comes_from_its_arguments_from_itself_and_from_a_problem(backbone):
    setup = Setup(backbone, toy_task(), head="random", max_length=9, seed=4)
    assert Setup.of(setup) is setup
    assert Setup.of({"model": backbone, "seed": 2}).seed == 2
    problem = setup.problem("bitfit", check=False)
    again = Setup.of(problem)
    assert (again.backbone, again.task, again.head) == (backbone, problem.task, problem.head)
    assert (again.max_length, again.seed) == (9, 4)
    assert again.problem(problem.delta, check=False).identity() == problem.identity()


def test_a_problem_that_holds_more_than_a_setup_makes_none(backbone):
    """Its loss, or the length of its answers, would be others without a word."""

    class Doubled(CrossEntropy):
        name = "doubled"

    delta = LoRA(backbone, r=1)
    own = ClassificationProblem(backbone, toy_task(), delta, loss=Doubled(), check=False)
    texts = Setup(tiny("gpt2"), copy_task()).problem("bitfit", check=False, max_new_tokens=3)
    for problem in (own, texts):
        with pytest.raises(ValueError, match="holds more than a setup does; allowed is classification"):
            Setup.of(problem)


def test_another_setup_keeps_what_it_does_not_change(backbone):
    setup = Setup(backbone, toy_task(), head="random", train_examples=8)
    head, task = setup.head, setup.task
    assert setup.replace(device="cpu").task.train == task.train
    other = setup.replace(seed=1)
    assert other.backbone is backbone
    assert other.task.train != task.train
    assert not torch.equal(other.head.weight, head.weight)
    assert setup.replace(head="probe").task is task


def test_a_setup_does_not_change(backbone):
    setup = Setup(backbone, toy_task())
    with pytest.raises(AttributeError, match=r"seed: a setup does not change; take setup\.replace"):
        setup.seed = 3


def test_its_repr_says_what_it_is_made_of(backbone):
    assert repr(Setup("minilm", "stdlib-topics", seed=2)).startswith("Setup(model='minilm', task='stdlib-top")
    lora = LoRA(backbone, r=1)
    assert Setup(backbone, toy_task()).delta(lora) is lora


@pytest.mark.parametrize("case", CASES)
def test_the_seed_reaches_every_delta_that_draws(case):
    """Every run had the same LoRA start, whatever its seed."""
    name, options = CASES[case]
    backbone = tiny("bert", dtype=torch.float64)

    def logits(seed: int) -> torch.Tensor:
        problem = Setup(backbone, toy_task(), seed=seed).problem(name, options, check=False)
        point = torch.randn(problem.delta.size, generator=torch.Generator().manual_seed(0)).double()
        return problem.logits(0.1 * point, problem.batch(problem.train, range(4))[0])

    draws = [logits(seed) for seed in (0, 0, 1, 2, 3)]
    assert torch.equal(draws[0], draws[1])
    if seeded(name, options, 0) == dict(options):  # nothing is drawn, or with a seed of its own
        assert all(torch.equal(draws[0], other) for other in draws)
    else:
        assert any(other.shape != draws[0].shape or not torch.allclose(draws[0], other) for other in draws)


def test_a_length_above_the_limit_of_the_model_is_refused_and_the_default_is_cut(backbone):
    limit = backbone.max_length
    assert Setup(backbone, toy_task()).max_length == min(64, limit)
    assert Setup(backbone, toy_task(), max_length=limit).max_length == limit
    with pytest.raises(ValueError, match=f"max_length={limit + 1}: 'tiny-.*' takes at most {limit} tokens"):
        Setup(backbone, toy_task(), max_length=limit + 1).problem("bitfit")


def test_a_model_by_the_arguments_of_load_backbone(monkeypatch, backbone):
    asked = {}
    monkeypatch.setattr(names, "load_backbone", lambda **given: asked.update(given) or backbone)
    setup = Setup({"name": "a-model", "dtype": "bfloat16"}, toy_task(), device="cuda:1")
    assert setup.backbone is backbone
    assert asked == {"name": "a-model", "dtype": "bfloat16", "device": "cuda:1"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_change_finer_than_the_network_is_refused(dtype):
    problem = Setup(tiny("bert", dtype=dtype), toy_task()).problem("lora:1", check=False)
    batch, _ = problem.batch(problem.train, range(2))
    with pytest.raises(ValueError, match=r"delta.dtype=torch.float64: with weights in .* δ is torch.float32"):
        problem.logits(problem.delta.initial().double(), batch)


def test_a_model_at_hand_comes_with_its_tokenizer():
    setup = Setup((tiny_model("bert"), tiny_tokenizer("bert")), toy_task())
    assert repr(setup.backbone) == "<Backbone BertModel: encoder, 2 blocks, H = 16, 5,744 parameters>"
    assert repr(setup.head) == "<Head label-words: 2 classes of states of 16 numbers>"
    with pytest.raises(ValueError, match=r"model=BertModel: must be a name, a Backbone, or a pair"):
        Setup(tiny_model("bert"), toy_task())
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(tiny_model("bert"), peft.LoraConfig(target_modules=["query"]))
    with pytest.raises(ValueError, match=r"model is a PeftModel.*from_peft\(model, tokenizer=tokenizer"):
        Setup((model, tiny_tokenizer("bert")), toy_task())

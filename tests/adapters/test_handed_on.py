"""What is trained here is used with plain peft and transformers, and the other way round, to 1e-5."""

from __future__ import annotations

import json

import pytest
import torch
from command_line import run, save_tiny
from tiny_models import tiny
from tiny_problems import toy_task

from deltatheory.adapters import explain, merge, open_adapter, predict
from deltatheory.deltas.files import read_tensors, write_tensors
from deltatheory.problems import ClassificationProblem, Classifier, Setup, make_head
from deltatheory.training import Training, train

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")

TEXTS = ["a b c d", "i j", "k l m n o p"]
PEFT = {
    "lora": ("lora:2", {"targets": ["query", "output.dense"], "rank_pattern": {"query": 1}}),
    "ia3": ("ia3", {}),
    "prefix": ("prefix:3", {"gate": "none", "shift": True}),
}
OURS = {"gated": ("prefix:3", {}), "bottleneck": ("adapter:2", {}), "bias": ("bitfit", {})}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny("bert", tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="module")
def setup(base):
    return Setup(str(base), toy_task(train=8, test=4), head="prototypes")


def trained(setup, delta, options, folder, **about):
    problem = setup.problem(delta, options, check=False, **about)
    result = train(problem, Training(steps=2, batch_size=4, learning_rate=0.05))
    result.save_beside(folder)
    chances = Classifier.of(problem, result.delta).predict(problem.delta, result.delta, TEXTS)
    return result, chances


def theirs(folder, setup, model):
    """What a hand-written reader makes of the states of a model, by the file of the head."""
    batch = setup.backbone.encode(TEXTS)
    hidden = model(input_ids=batch.input_ids, attention_mask=batch.mask.long()).last_hidden_state
    hidden = hidden[:, -batch.input_ids.shape[1] :] * batch.mask[:, :, None]
    pooled = hidden.sum(1) / batch.mask.sum(1, keepdim=True)
    head = read_tensors(folder / "head.safetensors")[0]
    unit = torch.nn.functional.normalize(pooled - head["centre"], dim=-1)
    return (unit @ head["weight"].T + head["bias"]).softmax(-1)


@pytest.mark.parametrize("case", PEFT)
def test_trained_here_it_predicts_the_same_in_plain_peft(case, base, setup, tmp_path):
    _, ours = trained(setup, *PEFT[case], tmp_path)
    folder = tmp_path / "adapter"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["task_type"]) == (str(base), "FEATURE_EXTRACTION")
    plain = transformers.AutoModel.from_pretrained(base)
    with torch.no_grad():
        model = peft.PeftModel.from_pretrained(plain, folder).eval()
        torch.testing.assert_close(theirs(folder, setup, model), ours, rtol=0, atol=1e-5)
    assert "AutoModel, head prototypes" in (folder / "README.md").read_text()
    places = (folder, tmp_path, tmp_path / "delta.safetensors")  # for peft, of the run, or as it is
    for place in places if case == "lora" else places[:1]:
        found = predict(place, TEXTS)
        torch.testing.assert_close(found.probabilities, ours, rtol=0, atol=1e-5)
    assert found.labels == [("class-0", "class-1")[i] for i in ours.argmax(1).tolist()]


@pytest.mark.parametrize(("case", "train_head"), [("gated", False), ("bottleneck", True), ("bias", False)])
def test_what_peft_has_no_form_for_goes_as_it_is(case, train_head, setup, tmp_path):
    _, ours = trained(setup, *OURS[case], tmp_path, train_head=train_head)
    assert not (tmp_path / "adapter").exists()
    torch.testing.assert_close(predict(tmp_path, TEXTS).probabilities, ours, rtol=0, atol=1e-6)


def test_a_trained_head_goes_beside_a_delta_of_peft(setup, tmp_path):
    _, ours = trained(setup, "lora:2", {}, tmp_path, train_head=True)
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()
    torch.testing.assert_close(predict(tmp_path, TEXTS).probabilities, ours, rtol=0, atol=1e-5)


def test_trained_in_peft_explained_shrunk_and_predicted_here(base, setup, tmp_path):
    torch.manual_seed(0)
    config = peft.LoraConfig(task_type="FEATURE_EXTRACTION", r=4, target_modules=["query", "value"])
    model = peft.get_peft_model(transformers.AutoModel.from_pretrained(base), config)
    batch = setup.backbone.encode(TEXTS)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(3):
        hidden = model(input_ids=batch.input_ids, attention_mask=batch.mask.long()).last_hidden_state
        optimizer.zero_grad()
        hidden[..., 0].square().mean().backward()
        optimizer.step()
    model.save_pretrained(tmp_path / "theirs")
    found = explain(tmp_path / "theirs", {"task": setup.task, "head": "prototypes"}, keep=0.9)
    assert 0 < found.kept_rank < found.total_rank
    found.save_beside(tmp_path)
    small = tmp_path / "truncated"
    Classifier(setup.head, setup.task.label_names, setup.max_length).save(small)
    plain = transformers.AutoModel.from_pretrained(base)
    with torch.no_grad():
        shrunk = peft.PeftModel.from_pretrained(plain, small).eval()
        expected = theirs(small, setup, shrunk)
    torch.testing.assert_close(predict(small, TEXTS).probabilities, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("case", "form"), [("lora", "adapter"), ("lora", "delta.safetensors"), ("ia3", "adapter")]
)
def test_merged_it_is_a_checkpoint_of_transformers(case, form, setup, tmp_path):
    _, ours = trained(setup, *PEFT[case], tmp_path)
    merge(open_adapter(tmp_path / form), tmp_path / "merged")
    model = transformers.AutoModel.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        torch.testing.assert_close(theirs(tmp_path / "adapter", setup, model), ours, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["prefix", "bottleneck"])
def test_what_is_no_change_of_weights_is_not_merged(case, setup, tmp_path):
    trained(setup, *(PEFT | OURS)[case], tmp_path)
    with pytest.raises(ValueError, match=r"no weights are that|cannot be merged"):
        merge(open_adapter(tmp_path), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_table_is_predicted_and_an_adapter_exported_by_the_command(setup, tmp_path):
    _, ours = trained(setup, "lora:2", {}, tmp_path / "run")
    table = tmp_path / "my.csv"
    table.write_text("Text,label\n" + "".join(f"{text},class-{i % 2}\n" for i, text in enumerate(TEXTS)))
    out = tmp_path / "predictions.csv"
    done = run("predict", "--adapter", tmp_path / "run", "--task", table, "--out", out)
    assert done.exit_code == 0, done.output
    names = [f"class-{i}" for i in ours.argmax(1).tolist()]
    rows = [line.split(",") for line in out.read_text().splitlines()]
    assert rows[0] == ["row", "text", "label", "prediction", "probability"]
    assert [row[3] for row in rows[1:]] == names
    right = sum(name == f"class-{i % 2}" for i, name in enumerate(names)) / len(names)
    assert f"Predicted the classes of 3 texts, accuracy {right:.3f}" in done.stdout
    done = run("export", tmp_path / "run", "--merged", "--out", tmp_path / "merged")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    table.write_text("Text\na b\n")
    done = run(
        "predict", "--adapter", tmp_path / "run", "--task", table, "--out", out, "--head", "label-words"
    )
    assert done.exit_code == 2
    assert "head='label-words': needs label_names" in done.stderr


@pytest.mark.parametrize("kind", ["probe", "calibrated-label-words"])
def test_a_head_comes_back_as_it_was(kind, tmp_path):
    backbone, task = tiny("bert"), toy_task()
    delta = Setup(backbone, task).delta("bitfit")
    whole = Classifier(make_head(kind, backbone, task, max_length=9), task.label_names, 9)
    whole.save(tmp_path)
    again = Classifier.load(tmp_path, backbone)
    answers = [one.predict(delta, delta.initial(), TEXTS) for one in (whole, again)]
    assert torch.equal(*answers)
    assert (again.label_names, again.max_length) == (task.label_names, 9)


def test_words_of_a_language_model_come_back(tmp_path):
    backbone, task = tiny("gpt2"), toy_task()
    whole = Classifier(make_head("verbalizer", backbone, task, suffix=" o"), task.label_names, 9)
    whole.save(tmp_path)
    delta = Setup(backbone, task).delta("bitfit")
    answers = [x.predict(delta, delta.initial(), TEXTS) for x in (whole, Classifier.load(tmp_path, backbone))]
    assert torch.equal(*answers)
    problem = ClassificationProblem(backbone, task, delta, whole.head, max_length=9, check=False)
    ours = problem.predict(delta.initial(), problem.test).softmax(-1)
    torch.testing.assert_close(whole.predict(delta, delta.initial(), task.test.texts), ours)
    with pytest.raises(ValueError, match="reads words, and 'tiny-bert' says none of these"):
        Classifier.load(tmp_path, tiny("bert"))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "hed"},
        {"label_names": ["a"]},
        {"label_names": ["a", "a"]},
        {"max_length": 0},
        {"suffix": ["x"]},
        {"format": "head 9"},
    ],
)
def test_a_file_that_is_no_head_is_refused(change, tmp_path):
    backbone, task = tiny("bert"), toy_task()
    Classifier(make_head("random", backbone, task), task.label_names, 9).save(tmp_path)
    path = tmp_path / "head.safetensors"
    tensors, note = read_tensors(path)
    write_tensors(path, tensors, note | change)
    with pytest.raises(ValueError, match="is no whole head"):
        Classifier.load(tmp_path, backbone)


def test_an_adapter_without_a_head_says_what_to_give(setup, tmp_path):
    trained(setup, "lora:2", {}, tmp_path)
    (tmp_path / "adapter" / "head.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no head.safetensors lies beside .* give head='label-words'"):
        predict(tmp_path, TEXTS)

"""Token classification: losses, scores and answers of words, from rows and from prepared data."""

import numpy as np
import pyarrow
import pytest
import torch
from transformers import AutoConfig

from mat_ds.errors import UserError
from mat_ds.methods.batch import MicroBatch
from mat_ds.models.build import build_model, build_tokenizer
from mat_ds.models.options import ModelConfig
from mat_ds.tasks.example import Example
from mat_ds.tasks.examples import load_task_data
from mat_ds.tasks.kinds import kind_of_model
from mat_ds.tasks.kinds.forms import LossForm
from mat_ds.tasks.metrics import score
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.stored import store_examples, stored_examples
from mat_ds.tasks.tokens import with_tokens
from tests.support.words import BIO, CONLL, FOUND, KIND, SPEC, pairs
from tests.tasks.test_bad_rows import write


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(ModelConfig(), ["Anna Smith lives in Oslo and likes it"] * 30)


def test_prepared_words_give_the_same_batches(tokenizer, tmp_path):
    examples = [Example(*found) for found in FOUND]
    store_examples(tmp_path / "stored", examples, tokenizer, 64, SPEC)
    found = stored_examples([tmp_path / "stored"], None, True, SPEC)
    assert pairs(found) == FOUND
    one, other = (KIND.collate(tokenizer, list(some), 64) for some in (examples, found))
    assert torch.equal(one[1], other[1]) and all(torch.equal(one[0][name], other[0][name]) for name in one[0] | other[0])
    assert KIND.unread(tokenizer, list(found), 64) == 0
    with pytest.raises(UserError, match="has words of which there is no text"):
        store_examples(tmp_path / "cut", [Example(("a", "b"), (1, 2))], tokenizer, 64, SPEC)
        (file,) = (tmp_path / "cut").glob("*.arrow")
        table = pyarrow.ipc.open_stream(file.read_bytes()).read_all()
        texts = pyarrow.array([["a"]], table.schema.field("texts").type)
        labels = pyarrow.array([[1]], table.schema.field("label").type)
        table = table.set_column(0, table.schema.field("texts"), texts).set_column(1, table.schema.field("label"), labels)
        with pyarrow.ipc.new_stream(file, table.schema) as out:
            out.write_table(table)
        stored_examples([tmp_path / "cut"], None, True, SPEC)
    with pytest.raises(UserError, match="more texts than labels"):
        store_examples(tmp_path / "odd", [Example(("a", "b"), (1,))], tokenizer, 64, SPEC)
        stored_examples([tmp_path / "odd"], None, True, SPEC)


def test_lost_words_are_counted_and_count_as_outside(tokenizer, tmp_path):
    write(tmp_path, "own/train.conll", CONLL.encode())
    write(tmp_path, "own/validation.conll", CONLL.encode())
    data = with_tokens(load_task_data(SPEC, DataConfig(path=str(tmp_path))), tokenizer, 4, DataConfig())
    tally = data.tallies["own/validation"]
    assert tally.words == 4 and 0 < tally.unread < 4
    kept = np.zeros((1, 3, 6), np.float32)
    kept[0, :2] = [[0, 9, 0, 0, 0, 1], [0, 0, 9, 0, 0, 1]]  # of the third word nothing was read
    (answer,) = KIND.answers(kept, [Example(("Anna", "Smith", "lives"), None)])
    assert answer["tags"] == ["B-PER", "I-PER", "O"]
    assert answer["entities"] == [{"type": "PER", "start": 0, "end": 2, "text": "Anna Smith"}]


def test_scores_are_of_all_words_and_of_whole_spans():
    examples = [Example(*found) for found in FOUND]
    kept = np.zeros((2, 3, 6), np.float32)
    kept[..., 5] = 1
    for row, column, tag in ((0, 0, 1), (0, 1, 0), (0, 2, 0), (1, 0, 3)):  # Anna alone is found, and Oslo
        kept[row, column, tag] = 9
    assert score(SPEC, kept, examples) == {"seqeval_f1": 0.5, "accuracy": 0.75}
    assert KIND.answered(kept, examples).probabilities is None and not KIND.calibrates


def test_loss_and_divergence_are_means_over_the_words_that_are_read_and_padding_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(2, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.tensor([[[0, 1], [3, 2], [-1, 0]], [[2, 4], [-1, 0], [-1, 0]]])
    batch = MicroBatch({}, labels, 0)
    at = [[(0, 0, 1), (0, 3, 2)], [(1, 2, 4)]]
    losses = torch.stack([torch.stack([-p[i, j].log_softmax(0)[y] for i, j, y in row]).mean() for row in at])
    torch.testing.assert_close(KIND.losses(p, batch).double(), losses, rtol=1e-5, atol=1e-6)
    each = lambda i, j: ((p[i, j].softmax(0) - q[i, j].softmax(0)) * (p[i, j] - q[i, j])).sum()  # noqa: E731
    expected = torch.stack([torch.stack([each(i, j) for i, j, _ in row]).mean() for row in at])
    torch.testing.assert_close(KIND.divergence(p, q, batch).double(), expected, rtol=1e-5, atol=1e-6)
    right = p.clone()
    right[0, 0, 1] = right[0, 3, 2] = right[1, 2, 4] = 99.0
    assert KIND.right(right, batch).tolist() == [True, True]
    right[0, 3, 2] = -99.0
    assert KIND.right(right, batch).tolist() == [False, True]


@pytest.mark.parametrize("name", ["bert", "roberta", "mpnet", "electra"])
def test_a_model_without_padding_gives_the_logits_of_the_padded_one_at_every_word(name, tmp_path):
    from transformers import AutoModelForTokenClassification

    from mat_ds.models.unpadded import remove_padding

    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 40}
    config = AutoConfig.for_model(name, **sizes, num_labels=5, pad_token_id=1, max_position_embeddings=40)
    plain = AutoModelForTokenClassification.from_config(config).double().eval()
    packed = AutoModelForTokenClassification.from_config(config).double().eval()
    packed.load_state_dict(plain.state_dict())
    assert remove_padding(packed)
    ids, mask = torch.randint(3, 40, (3, 9)), torch.ones(3, 9, dtype=torch.long)
    mask[0, 5:], mask[2, 7:] = 0, 0
    ids = ids.where(mask.bool(), 1)
    labels = torch.stack([torch.arange(9).where(mask.bool(), -1), torch.zeros_like(ids)], -1)
    batch = MicroBatch({}, labels, 0)
    one, other = (KIND.losses(model(input_ids=ids, attention_mask=mask).logits, batch) for model in (plain, packed))
    torch.testing.assert_close(one, other)
    logits = [model(input_ids=ids, attention_mask=mask).logits[mask.bool()] for model in (plain, packed)]
    torch.testing.assert_close(*logits, rtol=1e-10, atol=1e-10)


def test_the_kind_of_a_saved_model_is_told_by_its_class(tokenizer, tmp_path):
    model = build_model(ModelConfig(name="tiny-roberta"), SPEC, tokenizer, 0).module
    assert type(model).__name__ == "RobertaForTokenClassification"
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    kind = kind_of_model(config)
    assert kind is type(KIND) and kind.described_by(config, ("tokens",)).labels == BIO


def test_the_trained_loss_is_smoothed_and_weighted_word_by_word():
    z = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(1))
    batch = MicroBatch({}, torch.tensor([[[0, 1], [3, 2]], [[2, 4], [-1, 0]]]), 0)
    torch.testing.assert_close(KIND.trained_losses(z, batch, LossForm()), KIND.losses(z, batch))
    weights, log_p = (1.0, 2.0, 0.5, 1.0, 3.0), z.double().log_softmax(-1)
    word = lambda i, j, y: -weights[y] * (0.9 * log_p[i, j, y] + 0.1 * log_p[i, j].mean())  # noqa: E731
    expected = torch.stack([(word(0, 0, 1) + word(0, 3, 2)) / 2, word(1, 2, 4)])
    found = KIND.trained_losses(z, batch, LossForm(smoothing=0.1, class_weights=weights))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    assert KIND.class_shares(Example(("a", "b", "c", "d"), (0, 2, 0, 1))) == {0: 0.5, 2: 0.25, 1: 0.25}

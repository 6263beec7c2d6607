"""The built-in model: a two-layer RoBERTa with random weights, and a byte-level tokenizer trained on the task's texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TINY = "tiny-roberta"
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def tiny_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE with few merges, in which spaces belong to the end of the preceding word: unknown words split
    into known pieces, and their endings have tokens of their own."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(Regex(r"(?=[.,;:!?])|$"), " ")
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", "merged_with_previous"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trained.decoder = decoders.ByteLevel()
    trained.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=400, min_frequency=20, special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    ))  # fmt: skip
    trained.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=trained, model_max_length=128, bos_token="<s>", cls_token="<s>", eos_token="</s>",
        sep_token="</s>", pad_token="<pad>", unk_token="<unk>", mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def tiny_config(tokenizer: Any, head: dict[str, Any]) -> Any:
    """The configuration of the built-in model for a tokenizer and a task's head."""
    from transformers import AutoConfig

    return AutoConfig.for_model(
        "roberta", vocab_size=len(tokenizer), hidden_size=96, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=192, max_position_embeddings=tokenizer.model_max_length + 2, type_vocab_size=1,
        initializer_range=0.1, bos_token_id=0, pad_token_id=1, eos_token_id=2, **head,
    )  # fmt: skip

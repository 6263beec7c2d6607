"""A model with a classification head and its tokenizer, from a folder, from the hub, or built here from scratch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from mat_ds.config.schema import ModelConfig
from mat_ds.errors import Problem, UserError, raise_if_any
from mat_ds.models.recompute import recompute_activations
from mat_ds.models.unread import Unread, load_unread, weight_files
from mat_ds.sampling.keys import seed_from
from mat_ds.tasks.spec import TaskSpec

TINY = "tiny-roberta"
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


def build_tokenizer(model: ModelConfig, texts: Iterable[str]) -> Any:
    """The tokenizer of `model.name`; for the tiny model, a byte-level one trained on `texts`.

    Raises:
        UserError: if there is none to be had.
    """
    if model.name == TINY:
        return _byte_level_tokenizer(texts)
    check_folder(model.name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model.name)
    except Exception as error:
        raise UserError(_unavailable(model.name, "tokenizer", error)) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise UserError(Problem("model.name", model.name, "its tokenizer has neither a padding nor an end token",
                                "set tokenizer.pad_token and save it again"))  # fmt: skip
    # A classifier reads its first token or its last real one. Pads in front would be read, or shift the positions.
    tokenizer.padding_side = "right"
    return tokenizer


@dataclass
class Built:
    """A classifier in fp32 on the CPU, the same on every rank.

    Attributes:
        module: the model; with `model.lora` it has adapters, and they and the head alone are trainable.
        fresh: names of the weights drawn anew: the head's, unless the folder has one for as many labels.
        unread: parameters that are stand-ins without memory, and where their values are.
    """

    module: torch.nn.Module
    fresh: list[str]
    unread: Unread


def build_model(model: ModelConfig, task: TaskSpec, tokenizer: Any, seed: int, leave_unread: bool = False) -> Built:
    """The classifier that `model` describes.

    Args:
        model: the options.
        task: how many labels there are, and their names.
        tokenizer: the model's.
        seed: the run's; what is drawn anew depends on it alone.
        leave_unread: whether to leave weights in their files as far as that can be done; else they are all read here.

    Raises:
        UserError: if there is none to be had, or it cannot classify, or has no module that adapters were asked for.
    """
    labels = dict(enumerate(task.labels)) or {0: "score"}
    head = {
        "num_labels": task.outputs, "id2label": labels, "label2id": {name: i for i, name in labels.items()},
        "problem_type": "regression" if task.regression else "single_label_classification",
    }  # fmt: skip
    try:
        config = _tiny_config(tokenizer, head) if model.name == TINY else AutoConfig.from_pretrained(model.name, **head)
        if model.dropout is not None:
            for option, value in config.to_dict().items():
                # Those that are null take the value of another.
                if "drop" in option and "layerdrop" not in option and isinstance(value, float | int):
                    setattr(config, option, model.dropout)
        raise_if_any(_padding_problems(model.name, config, tokenizer))
        # Decoders find the last real token of an example by it.
        config.pad_token_id = tokenizer.pad_token_id
        # Keys and values of past tokens serve generation alone.
        config.use_cache = False
        if (getattr(config, "type_vocab_size", 0) or 0) < 2:
            # RoBERTa has one type only, GPT-2 would add the word embeddings of a 0 and a 1.
            tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
        if model.attention:
            config._attn_implementation = model.attention
        built = _load(model.name, config, seed, leave_unread)
    except UserError:
        raise
    except Exception as error:
        raise UserError(_unavailable(model.name, "model", error)) from None
    if model.gradient_checkpointing:
        recompute_activations(built.module)
    if model.lora and model.name != TINY:  # which is refused
        from mat_ds.models.lora import add_lora, copies

        built.module = add_lora(built.module, model.name, model.lora, built.fresh, seed)
        built.unread |= {copy: built.unread[original] for copy, original in copies(built.module) if original in built.unread}
    return built


def _load(name: str, config: Any, seed: int, leave_unread: bool) -> Built:
    """The model without adapters."""
    torch.manual_seed(seed_from(seed, "model"))
    if name == TINY:
        return Built(AutoModelForSequenceClassification.from_config(config, dtype=torch.float32), ["everything"], {})
    files = weight_files(name) if leave_unread else []
    found = load_unread(files, config) if files else None
    if found is None:
        torch.manual_seed(seed_from(seed, "model"))
        found = *AutoModelForSequenceClassification.from_pretrained(
            name, config=config, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
        ), {}  # fmt: skip
    module, loading, unread = found
    return Built(module, sorted([*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])]), unread)


def _padding_problems(name: str, config: Any, tokenizer: Any) -> Iterator[Problem]:
    """Why texts of different lengths could not share a batch."""
    if tokenizer.pad_token_id >= config.vocab_size:
        yield Problem("model.name", name, f"its padding token has number {tokenizer.pad_token_id} and no word embedding",
                      "set tokenizer.pad_token to a token the model has, such as its end token, and save it")  # fmt: skip
    if getattr(config, "summary_type", None) == "last":
        yield Problem("model.name", name, "it classifies by the last position, which in a shorter text is a pad",
                      "take a model that reads its first token or its last real one")  # fmt: skip


def longest_input(model: torch.nn.Module, tokenizer: Any) -> int:
    """Tokens that both model and tokenizer can take."""
    limit = int(tokenizer.model_max_length)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            # RoBERTa counts positions from its padding index.
            unused = 0 if module.padding_idx is None else module.padding_idx + 1
            return min(limit, module.num_embeddings - unused)
    return min(limit, getattr(model.config, "max_position_embeddings", limit))


def check_folder(name: str) -> None:
    """Raises `UserError` if a folder is named that lacks a model's configuration or a tokenizer."""
    path = Path(name)
    if path.is_dir():
        files = {file.name for file in path.iterdir()}
        if "config.json" not in files:
            raise UserError(Problem("model.name", name, "the folder holds no config.json",
                                    "pass a folder written by save_pretrained"))  # fmt: skip
        if not files & {"tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model"}:
            raise UserError(Problem("model.name", name, "the folder holds no tokenizer",
                                    "add one with AutoTokenizer.from_pretrained(...).save_pretrained(<folder>)"))  # fmt: skip
    elif path.is_absolute() or name.startswith("."):
        raise UserError(Problem("model.name", name, "there is no such folder", "pass an existing folder, or a hub id"))


def _unavailable(name: str, what: str, error: Exception) -> Problem:
    reason = f"its {what} cannot be loaded ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
    if Path(name).is_dir():
        return Problem("model.name", name, reason, "check the files of the folder")
    return Problem(
        "model.name", name, reason,
        "where the hub can be reached, run `mat-ds prepare <folder>` with the options of this run, bring the folder here and "
        "pass model.name=<folder>/model",
    )  # fmt: skip


def _byte_level_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE with few merges whose words end, not begin, with their space: a word never seen falls into
    familiar pieces, and its ending has a token of its own."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(Regex(r"(?=[.,;:!?])|$"), " ")
    trained.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(" ", "merged_with_previous"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
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


def _tiny_config(tokenizer: Any, head: dict[str, Any]) -> Any:
    return AutoConfig.for_model(
        "roberta", vocab_size=len(tokenizer), hidden_size=96, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=192, max_position_embeddings=tokenizer.model_max_length + 2, type_vocab_size=1,
        initializer_range=0.1, bos_token_id=0, pad_token_id=1, eos_token_id=2, **head,
    )  # fmt: skip

"""A task for a causal language model that a small one learns in a minute: sums of two numbers, a character a token.

    python -m examples.sums FOLDER

writes the rows, the task and a GPT-2 of two layers with random weights, and prints how to train it.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

TASK = """# Addition: the model reads "12+7=" and writes "19".
name: sums
kind: causal_lm
text: prompt
label: response
metrics: [perplexity]
test: []
"""
LARGEST, VALIDATION = 39, 200


def write_rows(folder: Path) -> None:
    """Every sum of two numbers up to LARGEST, some kept to validate on."""
    numbers = range(LARGEST + 1)
    rows = [{"prompt": f"{a}+{b}=", "response": str(a + b)} for a in numbers for b in numbers]
    random.Random(0).shuffle(rows)
    folder.mkdir(parents=True, exist_ok=True)
    for split, some in (("validation", rows[:VALIDATION]), ("train", rows[VALIDATION:])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))


def write_model(folder: Path) -> None:
    """A GPT-2 with random weights, and a tokenizer of one token a character."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *"0123456789+="])}
    characters = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    characters.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=characters, model_max_length=16, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        unk_token="<unk>", model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gpt2", vocab_size=len(words), n_embd=64, n_layer=2, n_head=4, n_positions=16, initializer_range=0.05,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(folder: Path) -> None:
    """Writes everything."""
    write_rows(folder / "sums")
    (folder / "sums.yaml").write_text(TASK)
    write_model(folder / "gpt2")
    print(
        f"mat-ds train task={folder}/sums.yaml data.path={folder} model.name={folder}/gpt2 method.name=neftune "
        "method.alpha=1 optimizer.lr=3e-3 train.epochs=20"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))

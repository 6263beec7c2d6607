"""Decoders of a few thousand weights with a tokenizer of one token a character, and chats for them."""

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789+-*=.,:!?'\" \n"
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>"]
WIDTH = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
    "intermediate_size": 24, "max_position_embeddings": 64,
}  # fmt: skip
# Model type and settings; those with a tied head share it with the word embeddings.
DECODERS = {
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64},  # tied
    "llama": {**WIDTH, "tie_word_embeddings": False},
    "qwen2": {**WIDTH, "tie_word_embeddings": True},
    "gemma": {**WIDTH, "tie_word_embeddings": True},
}
# As Qwen's and many others', without marks.
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The same with marks around what the assistant writes.
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] + '<|im_end|>' + '\n' }}{% endgeneration %}{% else %}{{ m['content'] + '<|im_end|>' + '\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def character_tokenizer(chat_template=None, **special):
    """One token a character; a chat's end token is `<|im_end|>`."""
    words = {word: i for i, word in enumerate([*SPECIAL, *CHARACTERS])}
    trained = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    trained.decoder = decoders.Fuse()
    names = {
        "bos_token": "<s>",
        "eos_token": "<|im_end|>" if chat_template else "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained,
        model_max_length=64,
        additional_special_tokens=SPECIAL[4:],
        model_input_names=["input_ids", "attention_mask"],
        **{**names, **special},
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def decoder(family, tokenizer, seed=0, **overrides):
    """A random model of the family, whose weights are so large that every token matters."""
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, **{"initializer_range": 0.2, **DECODERS[family], **overrides},
    )  # fmt: skip
    for option, value in config.to_dict().items():
        if "drop" in option and isinstance(value, float):
            setattr(config, option, 0.0)
    torch.default_generator.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def save_decoder(folder, family="gpt2", chat_template=None, **overrides):
    """Writes a model and its tokenizer to a folder; returns the folder's path."""
    tokenizer = character_tokenizer(chat_template)
    decoder(family, tokenizer, **overrides).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

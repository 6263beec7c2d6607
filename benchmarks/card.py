"""Speed and memory of training on one card, method by method and precision by precision.

    python -m benchmarks.card FOLDER --data DATA [--model MODEL] [--steps 12]

Every run is on the first sentences of CoLA in batches of 32, in this process, one after the other. `--model` is a small encoder
with its tokenizer. A model of BERT-large's size is built too, with random weights, since speed does not depend on them.
"""

import argparse
import gc
import json
from pathlib import Path
from statistics import median

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig

import mat_ds

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
WARM = 3  # first steps, which are not counted
PROFILES = {"fp32": "zero2", "bf16": "zero2_rtx3090_bf16", "fp16": "zero2_v100_fp16"}
METHODS = {
    "vanilla": {"name": "vanilla"},
    "rdrop": {"name": "rdrop"},
    "freelb": {"name": "freelb", "delta_steps": 3},
    "mat": {"name": "mat", "delta_steps": 5, "theta_steps": 10, "delta_max_norm": 2e-3, "delta_projection": "clamp"},
}
RUNS = (
    *(("small", method, "fp32") for method in METHODS),
    ("small", "mat", "bf16"),
    ("small", "mat", "fp16"),
    *(("large", method, precision) for method in ("vanilla", "mat") for precision in PROFILES),
)


def large(tokenizer, folder, shrunk):
    """A folder with a model of BERT-large's size and the small model's tokenizer."""
    words = AutoTokenizer.from_pretrained(tokenizer)
    sizes = {**LARGE, "num_hidden_layers": 2} if shrunk else LARGE
    config = BertConfig(vocab_size=len(words), pad_token_id=words.pad_token_id, num_labels=2, **sizes)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def measure(folder, model, data, method, precision, steps):
    """Examples per second (median of the counted steps) and peak memory of tensors."""
    gc.collect()
    on_card = torch.cuda.is_available()
    if on_card:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    run = mat_ds.train(
        task="cola",
        output_dir=str(folder),
        ds_config=f"ds_configs/{PROFILES[precision]}.json",
        quiet=True,
        model={"name": str(model)},
        method=METHODS[method],
        optimizer={"lr": 1e-5},
        tracking={"uri": "none"},
        data={"path": str(data), "train_limit": 32 * steps, "eval_limit": 64},
        train={"max_steps": steps, "batch_size": 32, "micro_batch_size": 32, "telemetry_every": 0, "save_minutes": None},
    )
    speeds = [event["samples_per_second"] for event in run.events if event["event"] == "step"][WARM:]
    (memory,) = [event["rank_memory_mib"][0] for event in run.events if event["event"] == "system"][-1:]
    return {"examples_per_second": round(median(speeds), 1), "mib": memory, "score_is_finite": run.score == run.score}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the runs go")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--shrunk", action="store_true", help="two layers of the large model, to try the script on a CPU")
    parsed = parser.parse_args()
    models = {"small": parsed.model, "large": large(parsed.model, parsed.folder / "model-large", parsed.shrunk)}
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(json.dumps({"card": card, "torch": torch.__version__, "steps": parsed.steps}), flush=True)
    for size, method, precision in RUNS:
        line = {"model": size, "method": method, "precision": precision}
        try:
            line |= measure(parsed.folder / "-".join(line.values()), models[size], parsed.data, method, precision, parsed.steps)
        except Exception as error:  # go on with the others
            line["failed"] = f"{type(error).__name__}: {error}"[:300]
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

"""Maps option names of Hugging Face's Trainer to the names here; docs/coming_from_trainer.md shows the table."""

from __future__ import annotations

TRAINER_NAMES = {
    "learning_rate": "optimizer.lr",
    "weight_decay": "optimizer.weight_decay",
    "adam_beta1": "optimizer.betas, as [beta1, beta2]",
    "adam_beta2": "optimizer.betas, as [beta1, beta2]",
    "adam_epsilon": "optimizer.eps",
    "optim": "optimizer.name",
    "lr_scheduler_type": "optimizer.schedule; cosine_with_min_lr is cosine with optimizer.min_lr_ratio",
    "lr_scheduler_kwargs": "optimizer.min_lr_ratio, and optimizer.decay_ratio for num_decay_steps",
    "warmup_ratio": "optimizer.warmup_ratio",
    "warmup_steps": "optimizer.warmup_ratio, a share of all outer steps",
    "max_grad_norm": "optimizer.max_grad_norm",
    "num_train_epochs": "train.epochs",
    "max_steps": "train.max_steps",
    "per_device_train_batch_size": "train.micro_batch_size; train.batch_size is that of all ranks together",
    "auto_find_batch_size": "train.micro_batch_size=auto, from an estimate of the memory and not by trying",
    "per_device_eval_batch_size": "train.eval_micro_batch_size",
    "gradient_accumulation_steps": "train.batch_size: what exceeds train.micro_batch_size x ranks is accumulated",
    "eval_steps": "train.eval_per_epoch, evaluations per epoch",
    "eval_strategy": "train.eval_per_epoch, evaluations per epoch",
    "save_steps": "train.save_every",
    "save_total_limit": "train.keep_last",
    "logging_steps": "train.telemetry_every for the adversary; the loss is logged in any case",
    "load_best_model_at_end": "train.export",
    "resume_from_checkpoint": "train.resume",
    "gradient_checkpointing": "model.gradient_checkpointing",
    "model_name_or_path": "model.name",
    "attn_implementation": "model.attention",
    "max_seq_length": "data.max_length",
    "max_length": "data.max_length",
    "group_by_length": "data.group_by_length",
    "max_train_samples": "data.train_limit",
    "max_eval_samples": "data.eval_limit",
    "task_name": "task",
    "output_dir": "output_dir",
    "seed": "seed",
    "report_to": "tracking.uri",
    "run_name": "tracking.run_name",
    "deepspeed": "--ds_config FILE: DeepSpeed's JSON, or a name such as zero2",
    "fp16": "--ds_config FILE: DeepSpeed's JSON has the precision, such as zero2_v100_fp16",
    "bf16": "--ds_config FILE: DeepSpeed's JSON has the precision, such as zero2_rtx3090_bf16",
}


def renamed(name: str) -> str | None:
    """A hint for an option of Trainer that has another name here, given its key or flag; None for any other name."""
    last = name.rpartition(".")[2].lstrip("-").replace("-", "_")
    return f"Trainer's {last} is here {TRAINER_NAMES[last]}" if last in TRAINER_NAMES else None

"""The engine in a custom loop: input gradients and several updates per batch, under ZeRO 0 to 3, for any Hugging Face model.

    deepspeed --num_gpus 2 examples/own_loop.py --stage 3

DeepSpeed alone cannot compute the gradient with respect to an input: its hooks take any backward pass for that of the loss, and
raise or corrupt gradients. Here a causal language model is updated twice per batch against a perturbation of its embeddings.
"""

import argparse

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, GPT2Config

import mat_ds

STEPS, UPDATES, ASCENTS, RADIUS, BATCH = 20, 2, 3, 0.02, 8


def next_token_loss(logits, tokens):
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), tokens[:, 1:].flatten())


def train(stage, world, device):
    torch.manual_seed(0)  # all ranks build the same model
    sizes = {"vocab_size": 64, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}
    model = AutoModelForCausalLM.from_config(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    ds_config = {
        "train_micro_batch_size_per_gpu": BATCH,
        "gradient_accumulation_steps": 1,
        "zero_optimization": {"stage": stage},
        "steps_per_print": 10**9,
        "managed_gradient_accumulation": False,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    losses = []
    engine = mat_ds.Engine(model, mat_ds.OptimizerConfig(name="adam"), mat_ds.Chain(samples=UPDATES), ds_config, seed=0)
    for t in range(STEPS):
        engine.begin(t, lr=3e-3)
        start = torch.randint(64, (world.size, BATCH, 1), generator=torch.Generator().manual_seed(t))[world.rank]
        tokens = ((start + 3 * torch.arange(16)) % 64).to(device)  # a sequence to learn: every third number
        batch = mat_ds.MicroBatch({"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}, tokens, world.rank)
        delta = RADIUS * engine.uniform(batch, "delta")
        for k in range(ASCENTS):  # computes no weight gradients and does not communicate
            gradient = engine.delta_gradient(batch, ("delta", k), delta, lambda z, y=tokens: next_token_loss(z, y))
            delta = (delta + RADIUS / ASCENTS * gradient.sign()).clamp(-RADIUS, RADIUS)
        for k in engine.inner_steps():
            loss = next_token_loss(engine.forward(batch, ("theta", k), delta), tokens)
            engine.backward(loss)
            engine.update()
        losses.append(engine.end({"loss": loss.detach()})["loss"])  # the mean over the ranks; raises if one is not finite
    engine.close()
    if world.rank == 0:
        print(f"ZeRO-{stage}, {world.size} ranks: loss {losses[0]:.3f} to {losses[-1]:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--stage", type=int, default=2)
    parser.add_argument("--local_rank", type=int)  # the launcher adds it
    ranks = mat_ds.World.from_environment()
    with mat_ds.process_group(ranks) as here:
        train(parser.parse_args().stage, ranks, here)

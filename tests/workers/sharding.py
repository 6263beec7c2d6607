"""Worker: bytes of optimizer state per rank, the unarmed sampler, dropped units, and predictions of every example once."""

import torch
from deepspeed.accelerator import get_accelerator

from mat_ds.engine.export import gather_fp32
from mat_ds.evaluation.scores import Evaluator, Outcome
from mat_ds.ranks.collectives import all_reduce_sum
from mat_ds.tasks.example import Example
from mat_ds.tasks.registry import TASKS
from tests.support.dropped import distinct, dropped_units, shares
from tests.support.expected import PRECISIONS, STAGES, few
from tests.support.tiny import VOCABULARY, global_batches, micro_batches, shallow_roberta
from tests.workers.worker import MAT, PRECISION, ds_json, main, make, steps


def found_ones(batch):
    return torch.ones(len(batch.labels)), None


def collate(examples, device):
    """A text is a length n here, and becomes n equal tokens."""
    longest = max(example.length for example in examples)
    ids = torch.ones(len(examples), longest, dtype=torch.long)
    for row, example in enumerate(examples):
        ids[row, : example.length] = 3 + example.label % (VOCABULARY - 3)
    return {"input_ids": ids, "attention_mask": (ids != 1).long()}, torch.tensor([example.label % 3 for example in examples])


def body(world, report):
    micro, batch = 2, 2 * world.size
    batches = global_batches(1, examples=batch)
    parameters = sum(p.numel() for p in shallow_roberta().parameters())
    get_accelerator().is_fp16_supported = lambda: True
    origin = dict(shallow_roberta().named_parameters())
    for name, stage in few(PRECISIONS, STAGES):
        engine, player = make(world, ds_json(stage, PRECISION[name]), micro=micro, optimizer={"name": "sgd"}, batch=batch)
        working = {n: p for n, p in engine.ds.module.named_parameters() if p.numel()}
        exact, loaded = gather_fp32(engine), engine.sampler.updates == 0
        loaded &= world.rank > 0 or all(torch.equal(exact[n], p) for n, p in origin.items())
        loaded &= all(torch.equal(p.cpu(), origin[n].to(p.dtype)) for n, p in working.items())
        report[f"inert {name} zero-{stage}"] = loaded and (stage == 3 or len(working) == len(origin))
        steps(world, engine, player, micro, batches)
        whole = all_reduce_sum(torch.tensor(float(engine.sampler.state_bytes)))
        report[f"mixture {name} zero-{stage}"] = [engine.sampler.state_bytes, whole.item(), 4 * parameters]
        engine.close()

    for stage in STAGES:
        for loop, masks in (("independent", "independent"), ("frozen", "frozen"), ("off", "independent")):
            method = {**MAT, "dropout": loop, "theta_dropout": masks}
            model = shallow_roberta(dropout=0.2, attn_implementation="eager")
            engine, player = make(world, ds_json(stage), method, micro, batch=batch, model=model)
            engine.begin(0, 1e-3)
            with dropped_units(engine.ds.module, micro) as passes:
                player.step(engine, micro_batches(batches[0], micro, world.rank, world.size))
            loops = passes[:-4], passes[-4:]
            report[f"dropped {loop} zero-{stage}"] = [[distinct(units), max(shares(units))] for units in loops]
            engine.close()

    examples = [Example(("x" * (2 + 5 * i % 11),), i) for i in range(23)]
    for stage in (2, 3):
        engine, _ = make(world, ds_json(stage), MAT, micro, batch=batch)
        for size in (1, 4, 30):
            evaluator = Evaluator(TASKS["mnli"], collate, size, world, engine.device)
            found = evaluator.predict(engine.predict, examples)
            expected = torch.cat([shallow_roberta().eval()(**collate([e], None)[0]).logits for e in examples])
            labels = torch.tensor([example.label % 3 for example in examples])
            losses = -expected.log_softmax(-1)[range(len(labels)), labels]
            close = torch.allclose(found.kept, expected, atol=1e-5) and torch.allclose(found.losses, losses, atol=1e-5)
            same = torch.equal(found.right, expected.argmax(-1) == labels)
            # Of different lengths in every batch, so that they are padded to the longest.
            lengths = evaluator.each(lambda batch, rows: Outcome(batch.inputs["input_ids"], *found_ones(batch)), examples)
            counts = (lengths.kept > 1).sum(1).tolist() == [example.length for example in examples]
            report[f"predictions zero-{stage}, {size} at a time"] = close and same and counts
        engine.close()


if __name__ == "__main__":
    main(body)

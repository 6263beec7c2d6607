"""A method of one's own, as a plugin: fine-tuning with a penalty on confidence (Pereyra et al. 2017).

    mat-ds train --plugin examples/my_method.py --ds_config ds_configs/zero1.json method.name=confidence method.beta=0.1

It runs at every ZeRO stage and on any number of ranks: all that it sees is the engine's vocabulary.
"""

from typing import Annotated, Literal

from pydantic import Field

import mat_ds


class ConfidenceSettings(mat_ds.MethodSettings):
    """Its options: each has a type, a default, bounds and a meaning, and mistakes in them are told as in any other."""

    needs_distributions = True  # there is no entropy of a score

    name: Literal["confidence"] = Field("confidence", description="L minus the entropy of the prediction")
    beta: Annotated[float, Field(ge=0.0)] = Field(0.1, description="weight of the entropy H")


@mat_ds.register_method
class Confidence(mat_ds.Method):
    """theta <- theta - gamma P(grad[L(theta) - beta H(theta)])."""

    Settings = ConfidenceSettings
    cost = 3  # a forward pass is 1, a backward pass to the parameters 2

    def step(self, engine, batches):
        losses = []
        for k in engine.inner_steps():
            for batch in batches:
                logits = engine.forward(batch, masks=("theta", k))
                p = logits.softmax(-1)
                entropy = -(p * logits.log_softmax(-1)).sum(-1).mean()
                loss = self.objective.loss(logits, batch.labels) - self.settings.beta * entropy
                engine.backward(loss)
                losses.append(loss.detach().float())
            engine.update()
        return {"loss": sum(losses) / len(losses)}

"""A custom method as a plugin: fine-tuning with a penalty on confidence (Pereyra et al. 2017).

    mat-ds train --plugin examples/my_method.py --ds_config ds_configs/zero1.json method.name=confidence method.beta=0.1

It runs at every ZeRO stage and on any number of ranks, since it only uses the engine's interface.
"""

from typing import Annotated, Literal

from pydantic import Field

import mat_ds


class ConfidenceSettings(mat_ds.MethodSettings):
    """The method's options, with type, default, bounds and description; mistakes in them are reported as for other options."""

    needs_distributions = True  # a score has no entropy

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
                loss = self.objective.loss(logits, batch) - self.settings.beta * entropy
                engine.backward(loss)
                losses.append(loss.detach().float())
            engine.update()
        return {"loss": sum(losses) / len(losses)}

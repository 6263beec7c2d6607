"""R4F: R3F with a classification head of Lipschitz constant one (Aghajanyan et al. 2021, section 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from mat_ds.methods.base import Fold
from mat_ds.methods.r3f import R3F, R3FSettings

if TYPE_CHECKING:
    from torch import Tensor, nn


class R4FSettings(R3FSettings):
    needs_head: ClassVar[bool] = True

    name: Literal["r4f"] = Field("r4f", description="r3f with the head's last matrix divided by its spectral norm")  # type: ignore[assignment]


class R4F(R3F):
    """R3F's update. In every pass the head's last matrix W is replaced by W / sigma_max(W) (Miyato et al. 2018).

    As in the authors' code, the dense layer before it is not normalised. Their code approximates sigma_max by iteration; here
    it is exact, which is cheap because W has only one row per class.
    """

    Settings = R4FSettings

    @staticmethod
    def prepare_model(model: nn.Module, settings: Any) -> Fold:
        """Registers a hook on the last linear layer, so that names and shapes of the weights stay the model's own."""
        from torch import nn

        classes = model.config.num_labels  # type: ignore[union-attr]
        found = [
            (name, module)
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and module.out_features == classes
        ]
        # With adapters there are an original and the copy that is trained.
        name, head = next((each for each in reversed(found) if each[1].weight.requires_grad), found[-1])
        head.register_forward_hook(_divide)

        def fold(weights: dict[str, Tensor]) -> None:
            if (last := f"{name}.weight") in weights:
                weights[last] = weights[last] / _spectral_norm(weights[last])

        return fold


def _divide(module: nn.Linear, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    bias = 0.0 if module.bias is None else module.bias.float()
    return ((output.float() - bias) / _spectral_norm(module.weight) + bias).type_as(output)


def _spectral_norm(weight: Tensor) -> Tensor:
    from torch import linalg

    return linalg.matrix_norm(weight.float(), ord=2)

"""The output of a model's first layer: kept in a pass through all of it, or where a pass ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from mat_ds.errors import Problem, UserError
from mat_ds.methods.settings import MethodSettings
from mat_ds.models.depth import layers_of

OTHER = "use another model, or another method"


class FirstLayer:
    """The first layer of a model, at whose output a pass can be cut in two.

    What a pass hands from this layer to the next is used as it is, so it has no fixed shape: (B, L, H) in a padded pass, and
    (1, T, H) of the T real tokens where padding is removed.

    Args:
        model: a transformers model, with or without adapters; not at ZeRO-3, where a pass must not be left early.

    Raises:
        UserError: if its first layer cannot be found.
    """

    def __init__(self, model: nn.Module):
        self._name = str(getattr(model, "name_or_path", ""))
        if (found := _found_in(model)) is None:
            raise self._refusal(f"no layer that computes by itself was found in {type(model).__name__}")
        self._layer = found

    @contextmanager
    def kept(self) -> Iterator[list[Tensor]]:
        """A context in which a pass stores the output of the layer in the yielded list. A backward pass leaves its gradient in
        the `grad` of what is stored.

        Raises:
            UserError: if the pass did not reach the layer.
        """
        seen: list[Tensor] = []

        def keep(output: Tensor) -> None:
            if not seen:  # ALBERT's layers are one, which the pass goes through again
                if not output.requires_grad:  # nothing before it is trained
                    output.requires_grad_()
                output.retain_grad()
                seen.append(output)

        with self._calling(keep):
            yield seen
        if not seen:
            raise self._not_reached()

    def output_of(self, run: Callable[[], Any]) -> Tensor:
        """The output of the layer in a pass that ends there.

        Args:
            run: makes the pass.

        Raises:
            UserError: if the pass did not reach the layer.
        """

        def leave(output: Tensor) -> None:
            raise _Reached(output)

        with self._calling(leave):
            try:
                run()
            except _Reached as reached:
                return reached.output
        raise self._not_reached()

    @contextmanager
    def _calling(self, take: Callable[[Tensor], None]) -> Iterator[None]:
        hook = self._layer.register_forward_hook(lambda _, __, output: take(output[0] if isinstance(output, tuple) else output))
        try:
            yield
        finally:
            hook.remove()

    def _not_reached(self) -> UserError:
        return self._refusal("a pass does not go through its first layer")

    def _refusal(self, reason: str) -> UserError:
        return UserError(Problem("model.name", self._name, reason, OTHER))


class _Reached(Exception):
    """Ends a pass at the output of its first layer."""

    def __init__(self, output: Tensor):
        super().__init__("the pass has reached its first layer")
        self.output = output


def _found_in(model: Any) -> nn.Module | None:
    layers = layers_of(model)
    if not layers or len(layers[0]) != 1 or isinstance(layers[0][0], nn.ModuleList):
        return None
    return layers[0][0]


def layer_problems(model: Any, name: str, settings: MethodSettings) -> Iterator[Problem]:
    """Yields a problem if a method passes through the first layer of a model that has none, or not as many as its cost counts.

    Args:
        model: a transformers model; weights may be placeholders.
        name: of the model.
        settings: of the method.
    """
    if (counted := settings.counted_layers) is None:
        return
    if _found_in(model) is None:
        yield Problem("model.name", name, f"no layer that computes by itself was found in {type(model).__name__}", OTHER)
        return
    # Of layers that share their weights (ALBERT) there are more than modules.
    count = max(len(layers_of(model)), getattr(model.config, "num_hidden_layers", 0))
    if counted != count:
        reason = f"{name} has {count} layers, of which a pass through the first alone is 1/{count} of the work"
        yield Problem("method.layers", counted, reason, f"pass method.layers={count}")

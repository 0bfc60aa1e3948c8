"""Data and condition as one argument, as `fit` takes them."""

from typing import Any

__all__ = ["join_inputs", "split_inputs"]


def split_inputs(inputs: Any) -> tuple[Any, Any]:
    """Split what `fit` and `call` take, or its shapes, into the data and the condition."""
    if not isinstance(inputs, dict):
        if isinstance(inputs, (list, tuple)) and any(
            isinstance(part, (list, tuple)) or hasattr(part, "shape") for part in inputs
        ):
            raise ValueError(
                f"Expected one tensor, or a dictionary with 'x' and 'condition'. Received: "
                f"{type(inputs).__name__} of {len(inputs)}. Make one array of rows, by "
                "np.asarray(x); data and condition go into {'x': x, 'condition': c}."
            )
        return inputs, None
    if "x" not in inputs or not set(inputs) <= {"x", "condition"}:
        raise ValueError(
            f"Expected a dictionary with 'x' and, optionally, 'condition'. Received: keys "
            f"{sorted(inputs)}."
        )
    return inputs["x"], inputs.get("condition")


def join_inputs(x: Any, condition: Any = None) -> Any:
    """Return the data alone, or a dictionary of both where there is a condition."""
    return x if condition is None else {"x": x, "condition": condition}

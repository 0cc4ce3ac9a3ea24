"""The roles of keys whose names mislead: the average, or the raw weights."""

from __future__ import annotations


def told_roles(values: object) -> dict[str, tuple[bool, str]]:
    """Return the roles of keys with misleading names.

    Args:
        values: Content of a weights file.

    Returns:
        Key to whether its weights are averaged, and who saves them so.
    """
    if not isinstance(values, dict) or "state_dict" not in values:
        return {}
    if "current_model_state" in values:
        why = "where Lightning's WeightAveraging saves the average"
        return {"state_dict": (True, why), "current_model_state": (False, "")}
    averages, meta = values.get("ema_state_dict"), values.get("meta")
    marks = ("message_hub" in values, "steps" in _names(averages))
    if averages is not None and (any(marks) or "mmengine_version" in _names(meta)):
        # MMEngine swaps the two when it saves: "the original model parameters are actually saved
        # in ema field" (mmengine/hooks/ema_hook.py).
        why = "where MMEngine's EMAHook saves the average"
        return {"state_dict": (True, why), "ema_state_dict": (False, "")}
    return {}


def _names(values: object) -> set[object]:
    return set(values) if isinstance(values, dict) else set()

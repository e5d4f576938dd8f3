"""Pure rules of the control loop: values in, values out."""

from starling_operator.plan.decide import decide

__all__ = ["decide"]

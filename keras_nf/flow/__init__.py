"""What every flow has: a contract with a door, checks of arguments, a face towards TFP."""

from keras_nf.flow.contract import Flow
from keras_nf.flow.distribution import FlowDistribution

__all__ = ["Flow", "FlowDistribution"]

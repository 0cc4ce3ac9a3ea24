"""Faults to inject into a deploy model or its ONNX file, one at a time: parity must reject each.

A fault changes one thing of a fresh model in place, or says that the model has no such part.
"""

import faults_in_modules
import faults_outside
from fault_parts import FAULTS, AbsentPartError, Fault

__all__ = ["FAULTS", "AbsentPartError", "Fault", "faults_in_modules", "faults_outside"]

"""Whole models as ONNX files: what a graph computes, how it is written and checked, and how it is run."""
from mmattn.deployment.runtime import Detections, OnnxModel

__all__ = ['Detections', 'OnnxModel']

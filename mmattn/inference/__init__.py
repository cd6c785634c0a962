"""Predictions for images, folders and videos: a model with what it needs (`inferencer`), what it predicts (`results`),
and whole runs that leave pictures and a JSON file behind (`predicting`)."""
from mmattn.inference.inferencer import Inferencer
from mmattn.inference.predicting import Outcome, predict
from mmattn.inference.results import Classification, Detections, Prediction, Segmentation

__all__ = ['Classification', 'Detections', 'Inferencer', 'Outcome', 'Prediction', 'Segmentation', 'predict']

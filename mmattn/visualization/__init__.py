"""See what a model attends to: record it (`record`), draw it (`draw`), look around in it (`viewer`)."""
from mmattn.visualization.recording import Frame, Query, Record, record_attention

__all__ = ['Frame', 'Query', 'Record', 'record_attention']

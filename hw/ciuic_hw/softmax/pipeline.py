"""What the stages of the softmax engine are joined by."""

from ..streams import PipelineFifo, delay

__all__ = ["PipelineFifo", "delay"]

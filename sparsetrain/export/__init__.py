"""Networks in files that other programs run."""

from sparsetrain.export.huggingface import export_huggingface as export_huggingface
from sparsetrain.export.onnx import export_onnx as export_onnx
from sparsetrain.export.pt2 import export_aotinductor as export_aotinductor
from sparsetrain.export.pt2 import export_pt2 as export_pt2

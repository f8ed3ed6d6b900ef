"""The dtypes that ops over weights take."""

import torch

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

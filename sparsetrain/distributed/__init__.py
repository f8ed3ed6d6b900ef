"""Selection over the ranks of torch.distributed."""

from sparsetrain.distributed.pieces import Piece as Piece
from sparsetrain.distributed.pieces import pieces_of as pieces_of
from sparsetrain.distributed.sharded_topk_mask import Selection as Selection
from sparsetrain.distributed.sharded_topk_mask import sharded_topk_mask as sharded_topk_mask

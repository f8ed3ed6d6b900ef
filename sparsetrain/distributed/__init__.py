"""Selection over the ranks of torch.distributed."""

from sparsetrain.distributed.agree import equal_over as equal_over
from sparsetrain.distributed.agree import mean_over_ as mean_over_
from sparsetrain.distributed.agree import ranks_of as ranks_of
from sparsetrain.distributed.pieces import Piece as Piece
from sparsetrain.distributed.pieces import pieces_of as pieces_of
from sparsetrain.distributed.sharded_topk_mask import Selection as Selection
from sparsetrain.distributed.sharded_topk_mask import sharded_topk_mask as sharded_topk_mask

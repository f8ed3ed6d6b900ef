"""Every compiled op, one file each: what it computes, its reference, and its checks."""

from sparsetrain.ops.bits import bits_of as bits_of
from sparsetrain.ops.bits import mask_of as mask_of
from sparsetrain.ops.blocked import from_blocked as from_blocked
from sparsetrain.ops.blocked import from_blocked_reference as from_blocked_reference
from sparsetrain.ops.blocked import to_blocked as to_blocked
from sparsetrain.ops.blocked import to_blocked_reference as to_blocked_reference
from sparsetrain.ops.blocked import with_halo as with_halo
from sparsetrain.ops.blocked import with_halo_reference as with_halo_reference
from sparsetrain.ops.blocked_batch_norm import blocked_batch_norm as blocked_batch_norm
from sparsetrain.ops.blocked_batch_norm import (
    blocked_batch_norm_reference as blocked_batch_norm_reference,
)
from sparsetrain.ops.blocked_pool import blocked_adaptive_avg_pool as blocked_adaptive_avg_pool
from sparsetrain.ops.blocked_pool import blocked_avg_pool as blocked_avg_pool
from sparsetrain.ops.blocked_pool import blocked_max_pool as blocked_max_pool
from sparsetrain.ops.blocked_pool import blocked_pool_reference as blocked_pool_reference
from sparsetrain.ops.channel_scores import channel_scores as channel_scores
from sparsetrain.ops.channel_scores import channel_scores_reference as channel_scores_reference
from sparsetrain.ops.gather_channels import gather_channels as gather_channels
from sparsetrain.ops.gather_channels import gather_channels_reference as gather_channels_reference
from sparsetrain.ops.masked_adamw import masked_adamw as masked_adamw
from sparsetrain.ops.masked_adamw import masked_adamw_reference as masked_adamw_reference
from sparsetrain.ops.masked_sgd import masked_sgd as masked_sgd
from sparsetrain.ops.masked_sgd import masked_sgd_reference as masked_sgd_reference
from sparsetrain.ops.nm_mask import nm_mask as nm_mask
from sparsetrain.ops.nm_mask import nm_mask_reference as nm_mask_reference
from sparsetrain.ops.nm_mask_transposable import nm_mask_transposable as nm_mask_transposable
from sparsetrain.ops.nm_mask_transposable import (
    nm_mask_transposable_reference as nm_mask_transposable_reference,
)
from sparsetrain.ops.relu_density import relu_density as relu_density
from sparsetrain.ops.relu_density import relu_density_reference as relu_density_reference
from sparsetrain.ops.sddmm import sddmm as sddmm
from sparsetrain.ops.sddmm import sddmm_reference as sddmm_reference
from sparsetrain.ops.sort_entries import sort_entries as sort_entries
from sparsetrain.ops.sort_entries import sort_entries_reference as sort_entries_reference
from sparsetrain.ops.spmm import Entries as Entries
from sparsetrain.ops.spmm import spmm as spmm
from sparsetrain.ops.spmm import spmm_reference as spmm_reference
from sparsetrain.ops.spmv import spmv as spmv
from sparsetrain.ops.spmv import spmv_reference as spmv_reference
from sparsetrain.ops.topk_mask import topk_mask as topk_mask
from sparsetrain.ops.topk_mask import topk_mask_reference as topk_mask_reference
from sparsetrain.ops.topk_plan import TopkMask as TopkMask

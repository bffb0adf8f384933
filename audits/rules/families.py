"""The decision for every primitive: the family of its transfer rule, or a refusal.

The table covers every primitive that the installed JAX can put into a program; a test compares it
with JAX and fails when a new one has no decision. A primitive without one is denied. Being listed under an
accepting family is necessary but not sufficient: the checker also demands the identity of the primitive.
"""

from collections.abc import Mapping
from types import MappingProxyType

_FAMILIES: Mapping[str, str] = {
    "elementwise": """abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e
        cbrt ceil clamp clz complex conj convert_element_type copy cos cosh digamma div eq erf erf_inv
        erfc exp exp2 expm1 floor ge gt igamma igamma_grad_a igammac imag integer_pow is_finite le
        le_to eq_to lt_to lgamma log log1p logistic lt max min mul mulhi ne neg nextafter not or
        polygamma population_count pow random_fold_in random_gamma real reduce_precision
        regularized_incomplete_beta rem round rsqrt select_n shift_left shift_right_arithmetic
        shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh threefry2x32 xor
        zeta random_clone""",
    "identity": "name optimization_barrier sharding_constraint device_put pvary",
    "broadcast_in_dim": "broadcast_in_dim",
    "reshape": "reshape",
    "transpose": "transpose",
    "squeeze": "squeeze",
    "iota": "iota",
    "filler": "empty2",
    "bitcast": "bitcast_convert_type",
    "reduce_sum": "reduce_sum",
    "reduce_other": "reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax argmin",
    "ordered": "cumsum cumprod cummax cummin cumlogsumexp",
    "sort": "sort",
    "top_k": "top_k",
    "dot_general": "dot_general",
    "taken": "slice rev split tile",
    "dynamic_slice": "dynamic_slice",
    "dynamic_update_slice": "dynamic_update_slice",
    "pad": "pad",
    "gather": "gather",
    "scatter": "scatter scatter-add scatter-sub scatter-mul scatter-min scatter-max scatter_add "
    "scatter_sub scatter_mul scatter_min scatter_max",
    "concatenate": "concatenate",
    "stack": "stack",
    "unstack": "unstack",
    "linalg": """cholesky eigh lu qr svd triangular_solve tridiagonal_solve householder_product
        lu_pivots_to_permutation geqrf""",
    "fft": "fft",
    "conv": "conv_general_dilated",
    "window": "reduce_window_sum reduce_window_max reduce_window_min",
    "pool_gradient": "select_and_scatter_add select_and_gather_add",
    "random_bits": "random_bits",
    "random_split": "random_split",
    "random_seed": "random_seed",
    "random_wrap": "random_wrap",
    "random_unwrap": "random_unwrap",
    "scan": "scan",
    "while": "while",
    "cond": "cond",
    "call": "jit pjit closed_call core_call call checkpoint remat remat2",
    "custom_rule": "custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr",
    "linear_solve": "custom_linear_solve linear_solve",
    "federated_broadcast": "federated_broadcast",
    "federated_sum": "federated_sum",
    "federated_clip": "federated_clip federated_clip_rows",
    "psum": "psum",
    "extremum_collective": "pmax pmin",
    "axis_index": "axis_index",
    "collective": """all_gather all_gather_invariant all_gather_reduced all_gather_done
        all_gather_start all_gather_reduced_start all_to_all all_to_all_start all_to_all_done
        ppermute ppermute_start ppermute_done reduce_scatter reduce_scatter_start
        reduce_scatter_done psum_scatter pbroadcast pbroadcast_start pbroadcast_done pgather
        ragged_all_to_all psend precv psum_start psum_done psum_invariant psum_invariant_start
        unreduced_psum unreduced_psum_start unreduced_reduce_scatter unreduced_reduce_scatter_start
        preduced reduced_vary_cast_p vary_unreduced_cast_p reshard""",
    "callback": """pure_callback io_callback debug_callback debug_print inspect_sharding
        buffer_callback outside_call infeed outfeed""",
    "kernel": """ffi_call pallas_call tpu_custom_call custom_partitioning core_map mpmd_map
        triton_kernel_call call_exported cudnn_fusion composite xla_pmap custom_call
        dot_product_attention_fwd dot_product_attention_bwd dot_product_attention_fwd_wrapper
        dot_product_attention_bwd_wrapper dot_product_attention_fp8_fwd dot_product_attention_fp8_bwd
        dot_product_attention_fp8_fwd_wrapper dot_product_attention_fp8_bwd_wrapper scaled_matmul
        scaled_matmul_wrapper scaled_dot call_hi_primitive call_hi_primitive_linearized""",
    "reference": """new_ref get swap addupdate freeze free_ref empty_ref accum_grad_in_ref run_state
        new_box box_get box_set new_log log_extend log_read pin unpin broadcast_to""",
    "reverse_only": "custom_lin",
    "refused": """after_all approx_top_k cholesky_update create_token custom_vmap_call
        dce_sink dim_as_value dimension_size eig empty eval_jaxpr from_edtype to_edtype
        geqp3 hessenberg iota_2x32_shape layout_constraint linear_call ormqr philox2x32 philox4x32
        platform_index ragged_dot_general reduce reduce_window remat_opt rng_bit_generator
        rng_uniform schur select_and_scatter shape_assertion shard_map stage symmetric_product
        threefry4x32 tie tridiagonal unreachable with_memory_space_constraint check
        create_linear host_local_array_to_global_array global_array_to_host_local_array
        custom_transpose_call full_to_shard shard_to_full""",
}

DECISIONS: Mapping[str, str] = MappingProxyType(
    {name: family for family, names in _FAMILIES.items() for name in names.split()}
)

ACCEPTING = frozenset(_FAMILIES) - {
    "collective",
    "callback",
    "kernel",
    "reference",
    "refused",
    "reverse_only",
    "axis_index",
}

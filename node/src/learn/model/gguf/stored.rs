//! How llama.cpp names and orders the tensors of a model.

use std::collections::BTreeMap;

/// Which rows of heads whose neighbours turn together are the rows of heads whose halves do.
pub fn halves(rows: usize, heads: usize) -> Vec<usize> {
    let dim = rows / heads;
    let from = |row: usize| {
        let (head, row) = (row / dim, row % dim);
        head * dim + row % (dim / 2) * 2 + row / (dim / 2)
    };
    (0..rows).map(from).collect()
}

/// The inverse: rows of heads whose halves turn together, reordered so that their neighbours do.
///
/// # Panics
/// If the rows cannot be parted into heads of whole pairs.
pub fn neighbours(values: &[f32], rows: usize, heads: usize) -> Vec<f32> {
    let (width, dim) = (values.len() / rows, rows / heads);
    let mut out = vec![0.0; values.len()];
    for (row, x) in values.chunks_exact(width).enumerate() {
        let (head, row) = (row / dim, row % dim);
        let to = (head * dim + row % (dim / 2) * 2 + row / (dim / 2)) * width;
        out[to..to + width].copy_from_slice(x);
    }
    out
}

/// A matrix of so many rows, with its columns in their place.
pub fn across(values: &[f32], rows: usize) -> Vec<f32> {
    let width = values.len() / rows;
    let column = |at| (0..rows).map(move |row| values[row * width + at]);
    (0..width).flat_map(column).collect()
}

/// Whether a matrix of GPT-2 lies across in Hugging Face's files, and along in GGUF.
pub fn turned(name: &str) -> bool {
    let maps = ["c_attn", "c_proj", "c_fc"];
    maps.iter()
        .any(|map| name.ends_with(&format!(".{map}.weight")))
}

/// llama.cpp's name of a tensor.
pub fn stored_name(name: &str) -> String {
    let fixed = BTreeMap::from([
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.norm.weight", "output_norm.weight"),
        ("lm_head.weight", "output.weight"),
        ("transformer.wte.weight", "token_embd.weight"),
        ("transformer.wpe.weight", POSITIONS),
        ("transformer.ln_f.weight", "output_norm.weight"),
        ("transformer.ln_f.bias", "output_norm.bias"),
    ]);
    if let Some(stored) = fixed.get(name) {
        return (*stored).to_owned();
    }
    let mut stored = name.replace("model.layers.", "blk.");
    stored = stored.replace("transformer.h.", "blk.");
    for (theirs, ours) in [
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("attn.c_attn", "attn_qkv"),
        ("attn.c_proj", "attn_output"),
        ("mlp.c_fc", "ffn_up"),
        ("mlp.c_proj", "ffn_down"),
        ("ln_1", "attn_norm"),
        ("ln_2", "ffn_norm"),
    ] {
        stored = stored.replace(theirs, ours);
    }
    stored
}

/// GPT-2's learned positions, which llama.cpp wants in f32.
pub const POSITIONS: &str = "position_embd.weight";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::weights::quantised::reordered;

    #[test]
    fn every_order_has_its_inverse() {
        let values: Vec<f32> = (0..48).map(|i| i as f32).collect();
        let there = neighbours(&values, 16, 2);
        assert_eq!(reordered(&there, 16, &halves(16, 2)), values);
        assert_eq!(neighbours(&values[..8], 8, 1)[..4], [0.0, 4.0, 1.0, 5.0]);
        assert_eq!(across(&across(&values, 16), 3), values);
        assert_eq!(across(&values[..6], 2), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    }

    #[test]
    fn only_matrices_of_maps_lie_across() {
        assert!(turned("transformer.h.1.attn.c_attn.weight"));
        for name in [
            "transformer.wte.weight",
            "transformer.h.1.mlp.c_fc.bias",
            "transformer.h.1.ln_1.weight",
            "model.layers.1.self_attn.q_proj.weight",
        ] {
            assert!(!turned(name), "{name}");
        }
    }
}

//! Models out of GGUF files, whose names and layouts are llama.cpp's.

use crate::pretrained::{self, Result, load_tensors};
use crate::{Llama, LlamaConfig, Pretrained, RopeParameters};
use fornax_nn::init;
use fornax_tensor::Tensor;
use fornax_tensor::io::Gguf;

/// What llama.cpp divides the frequencies of rotary positions by.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// llama.cpp's names of a block's weights and HuggingFace's.
const BLOCK: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The sizes of the LLaMA in a file. Factors of its rotary frequencies, as LLaMA 3.1 has them,
/// become a `longrope` of equal factors for short and long texts.
///
/// # Errors
/// If the file holds another architecture, or does not say its sizes.
pub fn llama_config(file: &Gguf) -> Result<LlamaConfig> {
    let architecture = file.text("general.architecture")?;
    if architecture != "llama" {
        return Err(pretrained::Error::OtherArchitecture {
            path: file.path().display().to_string(),
            found: architecture.to_owned(),
            expected: Llama::MODEL_TYPE,
        });
    }
    let count = |key: &str| file.count(&format!("llama.{key}"));
    let number = |key: &str| file.number(&format!("llama.{key}"));
    let heads = count("attention.head_count")?;
    let length = count("context_length")?;
    let rope_scaling = match (
        file.get(ROPE_FACTORS),
        file.text("llama.rope.scaling.type").unwrap_or("none"),
    ) {
        (Some(entry), _) => {
            let factors = file.tensor(entry)?.to_f64_vec();
            Some(RopeParameters::divided(factors, length))
        }
        (None, "none") => None,
        (None, kind) => Some(RopeParameters {
            rope_type: Some(kind.to_owned()),
            factor: number("rope.scaling.factor").ok(),
            ..RopeParameters::default()
        }),
    };
    Ok(LlamaConfig {
        vocab_size: match file.get("token_embd.weight").map(|entry| &entry.shape[..]) {
            Some([vocab, _]) => *vocab,
            _ => count("vocab_size")?,
        },
        hidden_size: count("embedding_length")?,
        intermediate_size: count("feed_forward_length")?,
        num_hidden_layers: count("block_count")?,
        num_attention_heads: heads,
        num_key_value_heads: Some(count("attention.head_count_kv").unwrap_or(heads)),
        head_dim: count("attention.key_length").ok(),
        max_position_embeddings: length,
        rms_norm_eps: number("attention.layer_norm_rms_epsilon")?,
        rope_theta: number("rope.freq_base").ok(),
        rope_scaling,
        tie_word_embeddings: file.get("output.weight").is_none(),
        ..LlamaConfig::default()
    })
}

/// Loads a LLaMA, its weights dequantised.
///
/// # Errors
/// If the file holds another architecture, lacks weights or has others, each of which is named, or
/// has element types that cannot be read.
pub fn load_llama(file: &Gguf) -> Result<Llama> {
    let config = llama_config(file)?;
    let mut model = init::without_values(|| Llama::new(&config))?;
    let mut tensors = Vec::with_capacity(file.entries().len());
    for entry in file.entries() {
        // Part of the configuration.
        if entry.name == ROPE_FACTORS {
            continue;
        }
        let name = hugging_face_name(&entry.name);
        let mut tensor = file.tensor(entry)?;
        // llama.cpp turns neighbouring numbers as pairs, HuggingFace those half a head apart.
        if let Some(heads) = turned(&name, &config)
            && let [rows, width] = entry.shape[..]
            && heads > 0
            && rows % (2 * heads) == 0
        {
            tensor = apart(&tensor, heads, rows, width);
        }
        tensors.push((name, tensor));
    }
    let unexpected = load_tensors(&mut model, tensors)?;
    match unexpected.is_empty() {
        true => Ok(model),
        false => Err(pretrained::Error::Tensors(fornax_tensor::Error::Format {
            path: file.path().display().to_string(),
            reason: format!("a LLaMA has no weights called {}", unexpected.join(", ")),
        })),
    }
}

/// The heads of a weight whose rows are turned by their positions.
fn turned(name: &str, config: &LlamaConfig) -> Option<usize> {
    match name.rsplit('.').nth(1)? {
        "q_proj" => Some(config.num_attention_heads),
        "k_proj" => config.num_key_value_heads,
        _ => None,
    }
}

/// Rows of each head in pairs, as all first ones and then all second ones.
fn apart(weight: &Tensor, heads: usize, rows: usize, width: usize) -> Tensor {
    weight
        .reshape([heads, rows / heads / 2, 2, width])
        .transpose(1, 2)
        .reshape([rows, width])
}

fn hugging_face_name(name: &str) -> String {
    let whole = match name {
        "token_embd.weight" => Some("model.embed_tokens.weight"),
        "output_norm.weight" => Some("model.norm.weight"),
        "output.weight" => Some("lm_head.weight"),
        _ => None,
    };
    let block = || {
        let (number, part) = name.strip_prefix("blk.")?.split_once('.')?;
        let (part, kind) = part.rsplit_once('.')?;
        let (_, theirs) = BLOCK.iter().find(|(ours, _)| *ours == part)?;
        Some(format!("model.layers.{number}.{theirs}.{kind}"))
    };
    whole
        .map(str::to_owned)
        .or_else(block)
        .unwrap_or_else(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CausalLm;
    use fornax_nn::Module;
    use fornax_tensor::io::Map;
    use fornax_tensor::manual_seed;

    /// The bytes of a file that llama.cpp would make of a model: an encoder of the little that is
    /// needed, written after the format's description.
    fn to_gguf(model: &Llama, config: &LlamaConfig, factors: Option<Tensor>) -> Vec<u8> {
        let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
        let mut keys = [
            text("general.architecture"),
            8u32.to_le_bytes().to_vec(),
            text("llama"),
        ]
        .concat();
        let counts = [
            ("attention.head_count", config.num_attention_heads),
            (
                "attention.head_count_kv",
                config.num_key_value_heads.unwrap(),
            ),
            ("embedding_length", config.hidden_size),
            ("feed_forward_length", config.intermediate_size),
            ("block_count", config.num_hidden_layers),
            ("context_length", config.max_position_embeddings),
        ];
        for (key, count) in counts {
            keys.extend(text(&format!("llama.{key}")));
            keys.extend(4u32.to_le_bytes());
            keys.extend((count as u32).to_le_bytes());
        }
        keys.extend(text("llama.attention.layer_norm_rms_epsilon"));
        keys.extend(6u32.to_le_bytes());
        keys.extend((config.rms_norm_eps as f32).to_le_bytes());
        let (mut about, mut data, mut count) = (Vec::new(), Vec::new(), 0u64);
        let factors = factors.map(|factors| (ROPE_FACTORS.to_owned(), factors));
        for (name, mut tensor) in model.named_parameters().into_iter().chain(factors) {
            if let Some(heads) = turned(&name, config) {
                let [rows, width] = [tensor.dim(0), tensor.dim(1)];
                tensor = tensor
                    .reshape([heads, 2, rows / heads / 2, width])
                    .transpose(1, 2)
                    .reshape([rows, width]);
            }
            let mut theirs = name.replace("model.layers.", "blk.");
            for (ours, hf) in BLOCK {
                theirs = theirs.replace(hf, ours);
            }
            theirs = theirs
                .replace("model.embed_tokens", "token_embd")
                .replace("model.norm", "output_norm");
            about.extend(text(&theirs));
            about.extend((tensor.rank() as u32).to_le_bytes());
            about.extend(
                tensor
                    .shape()
                    .iter()
                    .rev()
                    .flat_map(|&side| (side as u64).to_le_bytes()),
            );
            about.extend(0u32.to_le_bytes());
            about.extend((data.len() as u64).to_le_bytes());
            data.extend(tensor.to_vec::<f32>().iter().flat_map(|x| x.to_le_bytes()));
            data.resize(data.len().next_multiple_of(32), 0);
            count += 1;
        }
        let mut bytes = [b"GGUF".to_vec(), 3u32.to_le_bytes().to_vec()].concat();
        bytes.extend(count.to_le_bytes());
        bytes.extend((counts.len() as u64 + 2).to_le_bytes());
        bytes.extend(keys);
        bytes.extend(about);
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(data);
        bytes
    }

    fn tiny() -> LlamaConfig {
        LlamaConfig {
            vocab_size: 23,
            hidden_size: 24,
            intermediate_size: 40,
            num_hidden_layers: 2,
            num_attention_heads: 3,
            num_key_value_heads: Some(1),
            max_position_embeddings: 32,
            tie_word_embeddings: true,
            initializer_range: 0.3,
            ..LlamaConfig::default()
        }
    }

    /// The model that a file of this one gives.
    fn reloaded(model: &Llama, factors: Option<Tensor>) -> Llama {
        let bytes = to_gguf(model, model.config(), factors);
        load_llama(&Gguf::read(Map::from_bytes("x.gguf", bytes)).unwrap()).unwrap()
    }

    #[test]
    fn a_model_comes_back_from_a_file() {
        manual_seed(2);
        let model = Llama::new(&tiny()).unwrap();
        let loaded = reloaded(&model, None);
        let ids = Tensor::randint(0, 23, [2, 9]);
        let [a, b] = [&model, &loaded].map(|m| m.forward_logits(&ids, None));
        assert_eq!(a.to_vec::<f32>(), b.to_vec::<f32>());
    }

    #[test]
    fn stretched_positions_come_back_too() {
        manual_seed(2);
        let llama3 = r#"{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 16}"#;
        let config = LlamaConfig {
            rope_scaling: Some(serde_json::from_str(llama3).unwrap()),
            ..tiny()
        };
        let model = Llama::new(&config).unwrap();
        // As llama.cpp's `convert_hf_to_gguf.py` computes them.
        let factor = |i: usize| {
            let turns = 16.0 * 10000f64.powf(-(i as f64) / 4.0) / std::f64::consts::TAU;
            let smooth = ((turns - 1.0) / 3.0).clamp(0.0, 1.0);
            (1.0 / ((1.0 - smooth) / 8.0 + smooth)) as f32
        };
        let factors: Vec<f32> = (0..4).map(factor).collect();
        assert!(factors[0] < factors[1] && factors[3] == 8.0, "{factors:?}");
        let loaded = reloaded(&model, Some(Tensor::from_vec(factors, [4])));
        let ids = Tensor::randint(0, 23, [2, 30]);
        let logits = |m: &Llama| m.forward_logits(&ids, None);
        let difference = (logits(&model) - logits(&loaded)).abs().max(..).item();
        assert!(difference < 1e-4, "{difference}");

        // Folders keep them.
        let folder = tempfile::tempdir().unwrap();
        pretrained::save_to_folder(&loaded, folder.path()).unwrap();
        let again = pretrained::from_folder::<Llama>(folder.path()).unwrap();
        assert_eq!(
            logits(&again.model).to_vec::<f32>(),
            logits(&loaded).to_vec::<f32>()
        );
    }

    #[test]
    fn other_architectures_are_refused() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tensor/tests/fixtures/gguf/types.gguf"
        );
        let file = Gguf::open(path).unwrap();
        let error = load_llama(&file).err().unwrap().to_string();
        assert!(error.contains("llama.attention.head_count"), "{error}");
    }
}

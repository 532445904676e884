//! Folders of HuggingFace's `peft`: an `adapter_config.json` and `adapter_model.safetensors` beside
//! it.

use super::Lora;
use crate::module::Module;
use crate::{Error, Result, init};
use fornax_tensor::io::{load_safetensors, save_safetensors, write_atomic};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashSet};
use std::io::Write as _;
use std::path::Path;

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";

/// Options of `peft` that change what adapters compute and that are not implemented: only files
/// that leave them off are read.
const NOT_IMPLEMENTED: &[&str] = &[
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "exclude_modules",
    "kasa_config",
    "layer_replication",
    "layers_to_transform",
    "lora_bias",
    "monteclora_config",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "use_rslora",
    "velora_config",
];

/// What adapters are, named as in `adapter_config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct LoraConfig {
    pub peft_type: String,
    /// Such as "CAUSAL_LM".
    pub task_type: Option<String>,
    /// Where the model came from.
    pub base_model_name_or_path: Option<String>,
    /// The rank.
    pub r: usize,
    /// The scale, times the rank.
    pub lora_alpha: f64,
    /// Names of layers, or what they end with after a dot.
    pub target_modules: Vec<String>,
    /// Modules that train besides, as a whole.
    pub modules_to_save: Option<Vec<String>>,
    /// Whether weights are `[in, out]`.
    pub fan_in_fan_out: bool,
    /// Which biases train besides: only "none" is implemented.
    pub bias: String,
    pub inference_mode: bool,
    /// What means nothing here; it is saved again.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        LoraConfig {
            peft_type: "LORA".to_owned(),
            task_type: None,
            base_model_name_or_path: None,
            r: 8,
            lora_alpha: 8.0,
            target_modules: Vec::new(),
            modules_to_save: None,
            fan_in_fan_out: false,
            bias: "none".to_owned(),
            inference_mode: true,
            extra: Map::new(),
        }
    }
}

impl LoraConfig {
    /// Refuses what would compute something else.
    fn check(&self) -> Result<(), String> {
        if self.peft_type != "LORA" {
            return Err(format!("it describes \"{}\", not \"LORA\"", self.peft_type));
        }
        if self.bias != "none" {
            return Err(format!("bias \"{}\" is not implemented", self.bias));
        }
        let on = |value: &Value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Array(items) => !items.is_empty(),
            Value::Object(fields) => !fields.is_empty(),
            _ => true,
        };
        match NOT_IMPLEMENTED
            .iter()
            .find(|name| self.extra.get(**name).is_some_and(on))
        {
            Some(name) => Err(format!("{name} is not implemented")),
            None => Ok(()),
        }
    }
}

impl<M: Module> Lora<M> {
    /// Names what the adapters are for, in the files of [`save_adapter`](Lora::save_adapter): the
    /// model that they belong to, by its name or folder.
    pub fn base_model(mut self, name_or_path: &str) -> Self {
        self.config.base_model_name_or_path = Some(name_or_path.to_owned());
        self
    }

    /// Names the task, in the files of [`save_adapter`](Lora::save_adapter): what class of `peft`
    /// wraps the model, such as "CAUSAL_LM", "SEQ_CLS" or "SEQ_2_SEQ_LM".
    pub fn task(mut self, task_type: &str) -> Self {
        self.config.task_type = Some(task_type.to_owned());
        self
    }

    /// Saves `adapter_config.json` and `adapter_model.safetensors` to a folder, which is created if
    /// need be, as `peft` would: `PeftModel.from_pretrained(model, folder)` loads it.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save_adapter(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        let in_folder = |source| fornax_tensor::Error::Io {
            path: folder.display().to_string(),
            source,
        };
        std::fs::create_dir_all(folder).map_err(in_folder)?;
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        save_safetensors(folder.join(TENSORS), &self.state_dict(), &metadata)?;
        let text = serde_json::to_string_pretty(&self.config).expect("numbers and texts");
        write_atomic(&folder.join(CONFIG), |file| file.write_all(text.as_bytes()))
            .map_err(in_folder)?;
        Ok(())
    }

    /// A model with the adapters of a folder that [`save_adapter`](Lora::save_adapter) or `peft`
    /// wrote.
    ///
    /// ```
    /// use fornax_nn::{Layer, Linear, Lora, Sequential};
    /// # let folder = tempfile::tempdir().unwrap();
    /// let model = || Sequential::new().push(Linear::new(16, 16)).push(Linear::new(16, 2));
    /// Lora::new(model(), 2, 4.0, &["0"]).save_adapter(folder.path())?;
    /// let lora = Lora::load_adapter(model(), folder.path())?;
    /// # Ok::<(), fornax_nn::Error>(())
    /// ```
    ///
    /// # Errors
    /// If a file cannot be read, describes other adapters than these or layers that the model
    /// lacks, or its tensors do not fit.
    pub fn load_adapter(model: M, folder: impl AsRef<Path>) -> Result<Self> {
        let path = folder.as_ref().join(CONFIG);
        let refuse = |reason: String| fornax_tensor::Error::Format {
            path: path.display().to_string(),
            reason,
        };
        let text = std::fs::read_to_string(&path).map_err(|source| fornax_tensor::Error::Io {
            path: path.display().to_string(),
            source,
        })?;
        let config: LoraConfig =
            serde_json::from_str(&text).map_err(|error| refuse(error.to_string()))?;
        config.check().map_err(refuse)?;
        let mut lora = init::without_values(|| Lora::of_config(model, config)).map_err(refuse)?;
        let path = folder.as_ref().join(TENSORS);
        let tensors = load_safetensors(&path)?.tensors;
        // What the file holds besides adapters trains as well.
        let model = lora.model.get_mut().unwrap_or_else(|e| e.into_inner());
        let names: HashSet<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
        for (name, _) in model.named_parameters() {
            if names.contains(format!("base_model.model.{name}").as_str()) {
                model.unfreeze(&name);
            }
        }
        crate::load_state_dict(&mut lora, tensors).map_err(|error| match error {
            Error::Mismatch { problems, .. } => Error::Mismatch {
                what: path.display().to_string(),
                problems,
            },
            other => other,
        })?;
        Ok(lora)
    }
}

/// Whether the name of a module is `name`, or ends with a dot and it.
pub(super) fn is_called(module: &str, name: &str) -> bool {
    let before = module.strip_suffix(name);
    before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Layer, Linear, Sequential};
    use fornax_tensor::{DType, Tensor, manual_seed};

    fn model() -> Sequential {
        manual_seed(5);
        Sequential::new()
            .push(Linear::new(6, 8))
            .push(Linear::new(8, 3))
    }

    /// Adapters that are no longer zero.
    fn trained() -> Lora<Sequential> {
        let mut lora = Lora::new(model(), 2, 3.0, &["0"]).also_train("1");
        init::apply(&mut lora, |_, p| Some(init::normal(p.shape(), 0.0, 1.0)));
        lora.base_model("tiny").task("CAUSAL_LM")
    }

    fn config(folder: &Path) -> Map<String, Value> {
        let text = std::fs::read(folder.join(CONFIG)).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    #[test]
    fn a_folder_gives_back_the_adapters() {
        let folder = tempfile::tempdir().unwrap();
        let lora = trained();
        lora.save_adapter(folder.path()).unwrap();
        let again = Lora::load_adapter(model(), folder.path()).unwrap();
        let x = Tensor::randn([5, 6], DType::F32);
        let y = |l: &Lora<Sequential>| l.with(|m| m.forward(&x)).to_vec::<f32>();
        assert_eq!(y(&again), y(&lora));
        assert_eq!(again.config, lora.config);
        assert_eq!(again.num_trainable(), lora.num_trainable());

        let config = config(folder.path());
        let expected = serde_json::json!({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "tiny",
            "r": 2, "lora_alpha": 3.0, "target_modules": ["0"], "modules_to_save": ["1"],
            "fan_in_fan_out": false, "bias": "none", "inference_mode": true,
        });
        assert_eq!(Value::Object(config), expected);
    }

    #[test]
    fn a_parameter_alone_may_train_besides() {
        let folder = tempfile::tempdir().unwrap();
        let lora = Lora::new(model(), 2, 3.0, &["0"]).also_train("1.bias");
        lora.save_adapter(folder.path()).unwrap();
        let again = Lora::load_adapter(model(), folder.path()).unwrap();
        assert_eq!(again.num_trainable(), lora.num_trainable());
    }

    #[test]
    fn other_adapters_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        trained().save_adapter(folder.path()).unwrap();
        let good = config(folder.path());
        for (name, value, expected) in [
            ("peft_type", "IA3".into(), "it describes \"IA3\""),
            ("bias", "all".into(), "bias \"all\" is not implemented"),
            ("use_dora", true.into(), "use_dora is not implemented"),
            ("r", 0.into(), "the rank must be at least 1"),
            ("target_modules", "all-linear".into(), "invalid type"),
            ("target_modules", vec!["9"].into(), "is called `9`"),
            ("r", 3.into(), "the model needs [3, 6]"),
        ] {
            let mut config = good.clone();
            config.insert(name.to_owned(), value);
            let text = Value::Object(config).to_string();
            std::fs::write(folder.path().join(CONFIG), text).unwrap();
            let error = Lora::load_adapter(model(), folder.path()).err().unwrap();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}

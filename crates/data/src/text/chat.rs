//! How a conversation becomes one text for a model that was trained on conversations.

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// What the model is told about its part.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// One contribution to a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What.
    pub text: String,
}

impl Message {
    /// A message.
    pub fn new(role: Role, text: impl Into<String>) -> Self {
        Message {
            role,
            text: text.into(),
        }
    }
}

/// What SmolLM2 is told where a conversation begins otherwise.
const SYSTEM: &str = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";

/// A conversation in ChatML, as SmolLM2's template writes it, with the beginning of the model's
/// answer at the end.
///
/// ```
/// use fornax_data::text::{Message, Role, chatml};
/// let text = chatml(&[Message::new(Role::System, "Be brief."), Message::new(Role::User, "Hi")]);
/// assert_eq!(
///     text,
///     "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
/// );
/// ```
pub fn chatml(messages: &[Message]) -> String {
    let mut text = String::new();
    let mut add = |role: &str, said: &str| {
        text += &format!("<|im_start|>{role}\n{said}<|im_end|>\n");
    };
    if messages.first().is_none_or(|m| m.role != Role::System) {
        add("system", SYSTEM);
    }
    for message in messages {
        let role = match message.role {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        add(role, &message.text);
    }
    text + "<|im_start|>assistant\n"
}
